package conformance

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

// client is a way to use one of the vendor's clients.
type client struct {
	Library string `json:"library"`
	// Method is GET or POST.
	Method string `json:"method"`
	// Form puts the parameters into the body with openapi-client; pop-core does that with POST by itself.
	Form bool `json:"form,omitempty"`
	// Signature v2 makes openapi-client sign with HMAC-SHA1.
	Signature string `json:"signature,omitempty"`
}

// clients are the ways of use that are proven, by name.
var clients = map[string]client{
	"pop-core, GET":                      {Library: "pop-core", Method: "GET"},
	"pop-core, POST":                     {Library: "pop-core", Method: "POST"},
	"openapi-client, POST and query":     {Library: "openapi-client", Method: "POST"},
	"openapi-client, POST and form":      {Library: "openapi-client", Method: "POST", Form: true},
	"openapi-client, GET":                {Library: "openapi-client", Method: "GET"},
	"openapi-client, HMAC-SHA1 in query": {Library: "openapi-client", Method: "POST", Signature: "v2"},
	"openapi-client, HMAC-SHA1 and form": {Library: "openapi-client", Method: "POST", Form: true, Signature: "v2"},
}

// identity says to whom and as whom a client speaks.
type identity struct {
	Endpoint        string `json:"endpoint"`
	AccessKeyID     string `json:"accessKeyId"`
	AccessKeySecret string `json:"accessKeySecret"`
	SecurityToken   string `json:"securityToken,omitempty"`
}

// call is one call of an operation. Params may nest lists and structures, which the client then flattens.
type call struct {
	client
	identity
	Action  string `json:"action"`
	Version string `json:"version"`
	Params  any    `json:"params"`
	// Format asks for another form of answer than JSON; only openapi-client can read one.
	Format string `json:"format,omitempty"`
}

// answer is what a client made of the answer to a call.
type answer struct {
	// Status is that of HTTP; 0 means that the client got no answer it could read, and Body says why.
	Status int             `json:"status"`
	Body   json.RawMessage `json:"body"`
}

// requireCode checks that the client saw an error of the contract with this code.
func (a answer) requireCode(t *testing.T, code string) {
	t.Helper()
	var body struct{ Code, Message, RequestID, HostID string }
	require.NoError(t, json.Unmarshal(a.Body, &body), "%s", a.Body)
	require.Equal(t, code, body.Code, "%s", a.Body)
	require.Equal(t, smc.Errorf(code, "").HTTPStatus, a.Status, "%s", a.Body)
	require.NotEmpty(t, body.Message)
	require.NotEmpty(t, body.RequestID, "%s", a.Body)
	require.NotEmpty(t, body.HostID, "%s", a.Body)
}

// driver is the Node.js process in which the vendor's clients live.
type driver struct {
	mu  sync.Mutex
	in  *json.Encoder
	out *bufio.Reader
}

// startDriver starts the process; it ends with the test.
func startDriver(t *testing.T) *driver {
	t.Helper()
	dir := install(t)
	cmd := exec.CommandContext(t.Context(), "node", "client.js")
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait() // killed when the test's context ended first
	})
	return &driver{in: json.NewEncoder(stdin), out: bufio.NewReader(stdout)}
}

// do makes one call and returns what the client made of the answer.
func (d *driver) do(t *testing.T, c call) answer {
	t.Helper()
	if c.Version == "" {
		c.Version = smc.Version
	}
	if c.Params == nil {
		c.Params = map[string]any{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	require.NoError(t, d.in.Encode(c))
	line, err := d.out.ReadBytes('\n')
	require.NoError(t, err, "the process with the vendor's clients ended; its error is above")
	var a answer
	require.NoError(t, json.Unmarshal(line, &a))
	return a
}

// installed is where the clients are, once for all tests.
var installed struct {
	once sync.Once
	dir  string
	err  error
	log  []byte
}

// install installs the clients the lock file pins and returns the directory. It skips the test when that needs what
// is not there, and in CI fails it.
func install(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not installed, and CI must prove the API with the vendor's clients: %v", program, err)
			}
			t.Skipf("%s is not installed; install Node.js and npm to prove the API with the vendor's clients", program)
		}
	}
	installed.once.Do(func() { installed.dir, installed.log, installed.err = npmCI() })
	require.NoError(t, installed.err, "installing the vendor's clients:\n%s", installed.log)
	return installed.dir
}

// npmCI installs into a directory of its own: no node_modules stay in the repository, and tests that run at the same
// time do not meet.
func npmCI() (dir string, log []byte, err error) {
	if dir, err = os.MkdirTemp("", "drover-conformance-"); err != nil {
		return "", nil, err
	}
	for _, name := range []string{"package.json", "package-lock.json", "client.js"} {
		data, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
		}
		if err != nil {
			return dir, nil, err
		}
	}
	for range 3 { // the registry is far away
		cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		cmd.Dir = dir
		if log, err = cmd.CombinedOutput(); err == nil {
			break
		}
	}
	return dir, log, err
}

func TestMain(m *testing.M) {
	code := m.Run()
	if installed.dir != "" {
		if err := os.RemoveAll(installed.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			_, _ = io.WriteString(os.Stderr, err.Error()+"\n")
		}
	}
	os.Exit(code)
}
