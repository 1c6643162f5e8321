package replica

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kinds of token.
const (
	// TokenSession lets an agent feed the session of one job; its id is the JobId.
	TokenSession = "session"
	// TokenImage lets a client read and verify one image; its id is the ImageId.
	TokenImage = "image"
)

const tokenVersion = "drover1"

// SignToken returns a bearer token that admits to one thing (kind and id)
// until expires. Whoever holds the key can verify it; nothing is stored. It
// cannot be withdrawn before it expires: the session's epoch does that.
func SignToken(key []byte, kind, id string, expires time.Time) string {
	claims := strings.Join([]string{tokenVersion, kind, id, strconv.FormatInt(expires.Unix(), 10)}, ".")
	return claims + "." + tokenMAC(key, claims)
}

// VerifyToken checks that token was signed with key for that kind and id and
// has not expired at now. Its errors match [ErrRefused].
func VerifyToken(key []byte, token, kind, id string, now time.Time) error {
	cut := strings.LastIndexByte(token, '.')
	if cut < 0 || !hmac.Equal([]byte(tokenMAC(key, token[:cut])), []byte(token[cut+1:])) {
		return fmt.Errorf("%w: it is not signed with this host's key", ErrRefused)
	}
	parts := strings.Split(token[:cut], ".")
	if len(parts) != 4 || parts[0] != tokenVersion || parts[1] != kind || parts[2] != id {
		return fmt.Errorf("%w: it is not for %s %s", ErrRefused, kind, id)
	}
	unix, err := strconv.ParseInt(parts[3], 10, 64)
	if err != nil || !now.Before(time.Unix(unix, 0)) {
		return fmt.Errorf("%w: it has expired; ask the center for a new one", ErrRefused)
	}
	return nil
}

func tokenMAC(key []byte, claims string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(claims))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
