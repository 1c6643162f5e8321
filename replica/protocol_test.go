package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/drover/drover/test/property"
)

// client speaks the protocol by hand.
type client struct {
	t     testing.TB
	s     *site
	job   string
	epoch int64
	sent  int64
}

func (s *site) client(job string) *client { return &client{t: s.t, s: s, job: job} }

func (c *client) do(method, path, body string, header http.Header) (int, string) {
	c.t.Helper()
	req, err := http.NewRequest(method, c.s.url+apiPrefix+"/sessions/"+c.job+path, strings.NewReader(body))
	require.NoError(c.t, err)
	req.Header.Set("Authorization", "Bearer "+SignToken(testKey, TokenSession, c.job, time.Now().Add(time.Hour)))
	req.Header.Set(epochHeader, strconv.FormatInt(c.epoch, 10))
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(c.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	if resp.StatusCode >= 300 {
		var coded Error
		require.NoError(c.t, json.Unmarshal(b, &coded))
		return resp.StatusCode, coded.Code
	}
	return resp.StatusCode, string(b)
}

func (c *client) attach() {
	c.t.Helper()
	status, body := c.do("POST", "/attach", `{"instance":"hand"}`, nil)
	require.Equal(c.t, http.StatusOK, status, body)
	var answer attachAnswer
	require.NoError(c.t, json.Unmarshal([]byte(body), &answer))
	c.epoch = answer.Epoch
}

func (c *client) frames(disk int, body []byte) (int, string) {
	c.sent += int64(len(body))
	return c.do("PUT", fmt.Sprintf("/disks/%d/frames", disk), string(body), http.Header{sentHeader: {fmt.Sprintf("hand:%d:%d", c.sent, c.sent)}})
}

func TestCorruptFramesLeaveNothingBehind(t *testing.T) {
	s := newSite(t)
	path := filepath.Join(t.TempDir(), "d")
	raw := bytes.Repeat([]byte("drover "), GrainSize)[:2*GrainSize]
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	session := s.open("j-1", 1, DefaultParams(), SourceDisk{Path: path})
	c := s.client("j-1")
	c.attach()

	good := encodeAll(t, Params{}, 0, raw[:GrainSize])
	wrong := encodeAll(t, Params{}, GrainSize, raw[GrainSize:])
	wrong[len(wrong)-1] ^= 1
	status, code := c.frames(0, append(bytes.Clone(good), wrong...))
	require.Equal(t, http.StatusUnprocessableEntity, status)
	require.Equal(t, CodeGrainHashMismatch, code)

	status, code = c.frames(0, good[:len(good)-1])
	require.Equal(t, http.StatusBadRequest, status)
	require.Equal(t, CodeInvalidFrame, code)

	staged, err := os.ReadFile(s.staged("j-1", 0))
	require.NoError(t, err)
	require.True(t, isZero(staged), "nothing of a damaged window is written")
	require.Zero(t, session.Progress().BytesWritten)

	status, _ = c.frames(0, good)
	require.Equal(t, http.StatusNoContent, status)
	require.Equal(t, int64(GrainSize), session.Progress().BytesWritten)
}

func TestProtocolRefusals(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 1<<20, 1)
	c := s.client("j-1")
	status, code := c.do("POST", "/attach", `{}`, nil)
	require.Equal(t, http.StatusNotFound, status)
	require.Equal(t, CodeSessionNotOpen, code)

	s.open("j-1", 1, DefaultParams(), disk)
	_, code = c.do("POST", "/attach", `{"instance":"`+strings.Repeat("a", 500_000)+`"}`, nil)
	require.Equal(t, CodeInvalidRequest, code, "it would be logged")
	body := encodeAll(t, Params{}, 0, bytes.Repeat([]byte{1}, GrainSize))
	_, code = c.frames(0, body)
	require.Equal(t, CodeInvalidRequest, code, "no epoch")
	c.epoch = 17
	_, code = c.frames(0, body)
	require.Equal(t, CodeSessionNotOpen, code, "nobody attached to this host")
	c.attach()
	_, code = c.frames(3, body)
	require.Equal(t, CodeInvalidRequest, code, "no such disk")
	_, code = c.do("PUT", "/disks/0/frames", "", http.Header{sentHeader: {"a:b:c"}})
	require.Equal(t, CodeInvalidRequest, code)
	_, code = c.do("POST", "/progress", "{", nil)
	require.Equal(t, CodeInvalidRequest, code)
	_, code = c.do("POST", "/complete", "{}", nil)
	require.Equal(t, CodeInvalidRequest, code, "a completion covers every disk")
	_, code = c.do("POST", "/fail", "{}", nil)
	require.Equal(t, CodeInvalidRequest, code)
	_, code = c.do("POST", "/complete", `{"disks":[{"index":0,"root":"`+ZeroHash.String()+`"}]}`, nil)
	require.Equal(t, CodeMapMismatch, code)

	other := s.client("j-1")
	other.attach()
	for _, path := range []string{"/progress", "/complete", "/fail"} {
		status, code := c.do("POST", path, `{"Code":"X"}`, nil)
		require.Equal(t, http.StatusConflict, status, path)
		require.Equal(t, CodeFenced, code, path)
	}
	status, code = c.frames(0, body)
	require.Equal(t, http.StatusConflict, status)
	require.Equal(t, CodeFenced, code)
	status, _ = other.frames(0, body)
	require.Equal(t, http.StatusNoContent, status)
}

// TestDamageOnTheWayIsSentAgain flips a bit in some requests.
func TestDamageOnTheWayIsSentAgain(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 24<<20, 3)
	var puts, damaged atomic.Int64
	f := func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && puts.Add(1)%3 == 0 {
			damaged.Add(1)
			r.Body = io.NopCloser(&flip{r: r.Body, at: 1000})
		}
		return false
	}
	s.intercept.Store(&f)
	s.run("j-1", 1, DefaultParams(), disk)
	s.requireStaged("j-1", disk)
	require.Positive(t, damaged.Load())
}

type flip struct {
	r  io.Reader
	at int
}

func (f *flip) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if f.at >= 0 && f.at < n {
		p[f.at] ^= 0x10
	}
	f.at -= n
	return n, err
}

// TestMapsThatDifferAtTheEndAreReconciled has the host lose a map entry
// between the last window and the completion.
func TestMapsThatDifferAtTheEndAreReconciled(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 8<<20, 3)
	session := s.open("j-1", 1, DefaultParams(), disk)
	var completions atomic.Int64
	f := func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/complete") && completions.Add(1) == 1 {
			require.NoError(t, session.disks[0].putHashes(mapWrite{grain: 5, hashes: []Hash{unknownHash}}))
		}
		return false
	}
	s.intercept.Store(&f)
	require.NoError(t, s.sync(t.Context(), "j-1", disk))
	_, err := session.Wait(t.Context(), time.Second, nil)
	require.NoError(t, err)
	require.Equal(t, int64(2), completions.Load())
	s.requireStaged("j-1", disk)
}

func TestSidesThatNeverAgreeGiveUp(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 1<<20, 3)
	session := s.open("j-1", 1, DefaultParams(), disk)
	f := func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/complete") {
			require.NoError(t, session.disks[0].putHashes(mapWrite{grain: 5, hashes: []Hash{unknownHash}}))
		}
		return false
	}
	s.intercept.Store(&f)
	requireCode(t, s.sync(t.Context(), "j-1", disk), CodeSyncDiverged)
	_, err := session.Wait(t.Context(), time.Second, nil)
	requireCode(t, err, CodeSyncDiverged)
}

func TestTokens(t *testing.T) {
	now := time.Now()
	token := SignToken(testKey, TokenImage, "m-1", now.Add(time.Minute))
	require.NoError(t, VerifyToken(testKey, token, TokenImage, "m-1", now))
	require.ErrorIs(t, VerifyToken(testKey, token, TokenImage, "m-1", now.Add(2*time.Minute)), ErrRefused)
	require.ErrorIs(t, VerifyToken(testKey, token, TokenImage, "m-2", now), ErrRefused)
	require.ErrorIs(t, VerifyToken(testKey, token, TokenSession, "m-1", now), ErrRefused)
	for i := range token {
		broken := []byte(token)
		broken[i] ^= 1
		require.ErrorIs(t, VerifyToken(testKey, string(broken), TokenImage, "m-1", now), ErrRefused)
	}
}

// TestRandomHistories mutates a disk, synchronises it, and kills the host in
// between, in random order; whatever happened, a sync that completes leaves
// both sides equal.
func TestRandomHistories(t *testing.T) {
	property.Check(t, func(rt *rapid.T) {
		s := newSite(t)
		defer s.kill()
		size := rapid.Int64Range(1, 3<<20).Draw(rt, "size")
		disk := makeDisk(t, size, rapid.Uint64().Draw(rt, "seed"))
		run, level := 0, rapid.IntRange(0, 2).Draw(rt, "level")
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"write", "zero", "punch", "sync", "crash", "grow"}).Draw(rt, "step") {
			case "write":
				data := make([]byte, rapid.Int64Range(1, min(size, 200_000)).Draw(rt, "length"))
				randomize(rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "data"), 0)), data)
				overwrite(t, disk.Path, rapid.Int64Range(0, size-int64(len(data))).Draw(rt, "at"), data)
			case "zero":
				n := rapid.Int64Range(1, size).Draw(rt, "length")
				overwrite(t, disk.Path, rapid.Int64Range(0, size-n).Draw(rt, "at"), make([]byte, n))
			case "punch":
				n := rapid.Int64Range(1, size).Draw(rt, "length")
				f, err := os.OpenFile(disk.Path, os.O_RDWR, 0)
				require.NoError(t, err)
				require.NoError(t, punch(f, rapid.Int64Range(0, size-n).Draw(rt, "at"), n))
				require.NoError(t, f.Close())
			case "grow":
				size += rapid.Int64Range(0, 200_000).Draw(rt, "by")
				require.NoError(t, os.Truncate(disk.Path, size))
			case "sync":
				run++
				s.run("j-1", run, Params{CompressLevel: level, Checksum: true}, disk)
			case "crash":
				// A run that is cut off somewhere, and the host with it.
				run++
				session := s.open("j-1", run, Params{CompressLevel: level}, disk)
				agent := startSync(s.config("j-1", disk))
				target := rapid.Int64Range(0, size).Draw(rt, "after")
				for session.Progress().BytesRead < target && session.ctx.Err() == nil {
					select {
					case <-session.done:
						target = 0
					default:
					}
				}
				s.kill()
				agent.stop() // it may have ended
				s.start()
			}
		}
		run++
		s.run("j-1", run, Params{CompressLevel: level, Checksum: true}, disk)
		s.requireStaged("j-1", disk)
		_, err := s.host.MakeImage(context.Background(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: run}, nil)
		require.NoError(t, err, "the map is that of the bytes")
	})
}
