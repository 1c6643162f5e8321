package agentapi

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/ca"
)

func TestActivationCodes(t *testing.T) {
	secret := strings.Repeat("aB-_", 10) + "xyz"
	fingerprint := ca.Fingerprint{0: 7, 31: 9}
	code := FormatCode(secret, &fingerprint)
	assert.Regexp(t, `^[A-Za-z0-9_.-]+$`, code, "one word, also to a shell")
	gotSecret, gotFingerprint, err := ParseCode(code)
	require.NoError(t, err)
	assert.Equal(t, secret, gotSecret)
	assert.Equal(t, fingerprint, *gotFingerprint)

	assert.Equal(t, secret, FormatCode(secret, nil))
	gotSecret, gotFingerprint, err = ParseCode(secret) // as centers without TLS make them
	require.NoError(t, err)
	assert.Equal(t, secret, gotSecret)
	assert.Nil(t, gotFingerprint)

	for _, broken := range []string{code[:len(code)-1], code + "A", secret + ".", "." + code[len(secret)+1:], code + ".x", secret + ".!" + code[len(secret)+2:]} {
		_, _, err := ParseCode(broken)
		require.ErrorContains(t, err, "copy it again", broken)
	}
}
