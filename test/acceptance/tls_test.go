package acceptance

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/stack"
)

// A center that makes its own certificate authority: an agent knows it by its code alone, the command line by a file, and
// everybody else is kept out.
func TestTLSByTheCentersOwnAuthority(t *testing.T) {
	t.Parallel()
	s := newCenterWith(t, stack.Options{DevArgs: []string{"--tls"}})
	require.True(t, strings.HasPrefix(s.env["DROVER_ENDPOINT"], "https://"), s.env["DROVER_ENDPOINT"])
	disk := makeDisk(t, filepath.Join(s.Dir, "disk.raw"), 32*mib, 8*mib, 4, 51)
	a := s.startAgent("secure", disk)
	job := s.createJob(a, "--start")
	done := s.awaitStatus(job, smc.StatusFinished)
	s.exportSynced(done.Runs[0].ImageID, disk)
	s.drover("image", "verify", "secure")

	// After a restart the authority is the same, and the agent goes on.
	s.again()
	stack.Eventually(t, slow, "the agent is back", func() (bool, any) {
		found, err := s.Client.DescribeSourceServers(t.Context(), &smc.DescribeSourceServersRequest{SourceID: []string{a.SourceID}})
		return err == nil && len(found.SourceServers) == 1 && found.SourceServers[0].State == smc.SourceAvailable, err
	})

	r := run(t, append(s.Environ(), "DROVER_CA_FILE="), "drover", "job", "list")
	assert.Equal(t, 1, r.Code, "a client that does not know the authority")
	assert.Contains(t, r.Stderr, "DROVER_CA_FILE")
	r = run(t, append(s.Environ(), "DROVER_ENDPOINT=http"+strings.TrimPrefix(s.env["DROVER_ENDPOINT"], "https")), "drover", "job", "list")
	assert.Equal(t, 1, r.Code, "a client that speaks in the clear")
	assert.Contains(t, r.Stderr, "begin its address with https://")

	// A code of another center: the same secret, another fingerprint.
	secret, _, ok := strings.Cut(s.code(), ".")
	require.True(t, ok, "the code carries a fingerprint")
	stranger := filepath.Join(s.Dir, "stranger")
	r = run(t, nil, "drover-agent", "--endpoint", s.env["DROVER_ENDPOINT"], "--name", "stranger", "--state", stranger, "--disk", disk,
		"--code", secret+"."+base64.RawURLEncoding.EncodeToString(make([]byte, 32)))
	assert.Equal(t, 1, r.Code)
	assert.Contains(t, r.Stderr, "another authority than the activation code names")
	_, err := os.Stat(filepath.Join(stranger, "agent.json"))
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.NotContains(t, s.drover("source", "list"), "stranger")
}
