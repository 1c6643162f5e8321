package agentapi

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/drover/drover/center/ca"
)

// codeSeparator stands between the two parts of an activation code. Neither part has it.
const codeSeparator = "."

// FormatCode makes an activation code of the secret that admits to the center, and of the fingerprint of the
// certificate authority by which the agent knows the center. Without a fingerprint the code is the secret alone.
func FormatCode(secret string, authority *ca.Fingerprint) string {
	if authority == nil {
		return secret
	}
	return secret + codeSeparator + base64.RawURLEncoding.EncodeToString(authority[:])
}

// ParseCode takes an activation code apart. authority is nil when the code names none.
func ParseCode(code string) (secret string, authority *ca.Fingerprint, err error) {
	secret, text, ok := strings.Cut(code, codeSeparator)
	if !ok {
		return secret, nil, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) != ca.FingerprintSize || secret == "" {
		return "", nil, fmt.Errorf("the activation code is not whole: what follows %q is not the fingerprint of a certificate; copy it again", codeSeparator)
	}
	return secret, (*ca.Fingerprint)(raw), nil
}
