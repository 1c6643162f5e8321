package soak

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/stack"
)

// startAgents plays the agents of all source servers until the function it returns is called; the first of them reports at once, the last
// one after the time that is given. They send their heartbeats, ask for work,
// and sync a small disk when they are given some. They are what the center has to do with agents; what they cost themselves is not
// the center's.
func (c *center) startAgents(within time.Duration) (stop func()) {
	c.b.Helper()
	path := filepath.Join(c.b.TempDir(), "disk.raw")
	require.NoError(c.b, os.WriteFile(path, bytes.Repeat([]byte("drover\n\n"), diskSize/8), 0o600))
	transport := agentapi.NewTransport(nil)
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, 2*len(c.sources)
	api, err := agentapi.NewClient(c.Env()[smc.EnvEndpoint], "", agentapi.WithHTTPClient(&http.Client{Transport: transport}))
	require.NoError(c.b, err)
	ctx, cancel := context.WithCancel(c.b.Context())
	var agents sync.WaitGroup
	for i, source := range c.sources {
		a := &agent{source: source, api: api.WithToken(source.token), disk: path, data: &http.Client{Transport: transport}}
		delay := within * time.Duration(i) / time.Duration(len(c.sources))
		agents.Go(func() { a.beat(ctx, delay) })
		agents.Go(func() { a.work(ctx, delay) })
	}
	stop = func() {
		cancel()
		agents.Wait()
		transport.CloseIdleConnections()
	}
	db, err := c.Database.Open()
	require.NoError(c.b, err)
	defer db.Close()
	stack.Eventually(c.b, slow, "every source has reported", func() (bool, any) {
		var silent int
		err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM source_servers WHERE state = 'Unavailable'`).Scan(&silent)
		return silent == 0 && err == nil, silent
	})
	return stop
}

type agent struct {
	source
	api  *agentapi.Client
	data *http.Client
	disk string
}

func (a *agent) beat(ctx context.Context, delay time.Duration) {
	for every := time.After(delay); ; every = time.After(smc.HeartbeatRate) {
		select {
		case <-ctx.Done():
			return
		case <-every:
		}
		_, _ = a.api.Heartbeat(ctx, agentapi.HeartbeatRequest{Instance: a.name, Server: server}) // the next one makes up for it
	}
}

func (a *agent) work(ctx context.Context, delay time.Duration) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(delay):
	}
	var have int64
	var syncs sync.WaitGroup
	end := func() {}
	defer func() { end(); syncs.Wait() }()
	for ctx.Err() == nil {
		desired, err := a.api.Work(ctx, agentapi.WorkQuery{Instance: a.name, Have: have, Wait: agentapi.DefaultWait})
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		if desired.Generation == have {
			continue
		}
		have = desired.Generation
		end()
		syncs.Wait()
		if desired.Work == nil {
			continue
		}
		syncing, cancel := context.WithCancel(ctx)
		end = cancel
		syncs.Go(func() {
			_ = replica.Sync(syncing, replica.SyncConfig{ // the center hears how it ended
				HostURL: desired.Work.HostURL, Token: desired.Work.Token, JobID: desired.Work.JobID, Instance: a.name,
				Disks: []replica.SourceDisk{{Path: a.disk}}, Client: a.data,
			}, nil)
		})
	}
}
