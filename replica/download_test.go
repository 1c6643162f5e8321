package replica

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// A connection that breaks when all but the end of a download is there leaves nothing but the end to be fetched, also of a disk that
// is not whole grains.
func TestDownloadWithoutItsEnd(t *testing.T) {
	for _, size := range []int{2 << 20, 2<<20 + 4096} {
		s := newSite(t)
		path := filepath.Join(t.TempDir(), "d")
		data := make([]byte, size)
		randomize(rand.New(rand.NewPCG(1, 2)), data)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		s.run("j-1", 1, DefaultParams(), SourceDisk{Path: path})
		_, err := s.host.MakeImage(t.Context(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1}, nil)
		require.NoError(t, err)
		requests := 0
		f := func(w http.ResponseWriter, r *http.Request) bool {
			requests++
			if requests > 1 {
				return false
			}
			whole := httptest.NewRecorder()
			s.host.Handler().ServeHTTP(whole, r)
			for name, values := range whole.Header() {
				w.Header()[name] = values
			}
			w.Header().Set("Content-Length", strconv.Itoa(whole.Body.Len()))
			_, _ = w.Write(whole.Body.Bytes()[:whole.Body.Len()-frameHeaderSize])
			return true
		}
		s.intercept.Store(&f)
		requireSame(t, path, s.download("m-1", 0, ArtifactSynced))
		require.Equal(t, 2, requests)
	}
}
