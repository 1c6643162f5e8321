package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/smc"
)

// ErrSessionClosed is returned for a sync session that is not open: the job is not Syncing that run (any more).
var ErrSessionClosed = errors.New("the sync session is closed")

// ErrFenced is returned for a sync session whose epoch was raised since: another writer took over, or the job stopped.
var ErrFenced = errors.New("fenced: the epoch of the sync session was raised")

// RaiseEpoch gives a new writer of a job's open session its epoch; every earlier writer is fenced by it.
func (s *Store) RaiseEpoch(ctx context.Context, jobID string, run int) (int64, error) {
	var epoch int64
	err := s.write(ctx, func(tx *transaction) error {
		err := tx.QueryRowContext(ctx, `UPDATE sync_sessions SET epoch = epoch + 1 WHERE job_id = ? AND run = ? AND open = 1 RETURNING epoch`,
			jobID, run).Scan(&epoch)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("job %s, run %d: %w", jobID, run, ErrSessionClosed)
		}
		return err
	})
	return epoch, err
}

// CheckEpoch returns nil while epoch is the current one of the job's open session, else ErrFenced.
func (s *Store) CheckEpoch(ctx context.Context, jobID string, epoch int64) error {
	var current int64
	var open int
	err := s.db.QueryRowContext(ctx, `SELECT epoch, open FROM sync_sessions WHERE job_id = ?`, jobID).Scan(&current, &open)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("job %s: %w", jobID, ErrSessionClosed)
	}
	if err != nil {
		return err
	}
	if open == 0 || current != epoch {
		return fmt.Errorf("job %s: epoch %d, now %d: %w", jobID, epoch, current, ErrFenced)
	}
	return nil
}

// SessionOpen reports whether a run's session is open.
func (s *Store) SessionOpen(ctx context.Context, jobID string, run int) (bool, error) {
	var open int
	err := s.db.QueryRowContext(ctx, `SELECT open FROM sync_sessions WHERE job_id = ? AND run = ?`, jobID, run).Scan(&open)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return open != 0, err
}

// Work returns what the agent of a source should be doing.
func (s *Store) Work(ctx context.Context, sourceID string) (Work, error) {
	var work Work
	var open int
	var parameters string
	err := s.db.QueryRowContext(ctx, `SELECT generation, job_id, run, open, host_url, parameters FROM sync_sessions WHERE source_id = ?`, sourceID).
		Scan(&work.Generation, &work.JobID, &work.Run, &open, &work.HostURL, &parameters)
	if errors.Is(err, sql.ErrNoRows) {
		return Work{Generation: 1}, nil
	}
	if err != nil {
		return Work{}, err
	}
	if open == 0 {
		return Work{Generation: work.Generation}, nil
	}
	return work, json.Unmarshal([]byte(parameters), &work.Parameters)
}

// PrivateNet reports whether the job's agent reaches its transition host by the private address, where the host has one. CONTRACT: NetMode 2.
func (j *Job) PrivateNet() bool { return value(j.Spec.NetMode) == 2 }

// Parameters are the job's replication parameters as its agent and its transition host need them.
func (j *Job) Parameters() agentapi.Params {
	p, err := smc.ParseReplicationParameters(value(j.Spec.ReplicationParameters))
	if err != nil {
		// Create refused anything that does not parse; should one slip in, the defaults are safe.
		p, _ = smc.ParseReplicationParameters("")
	}
	return agentapi.Params{BandwidthLimit: p.BandwidthLimitKbps, CompressLevel: p.CompressLevel, Checksum: p.Checksum}
}

// hostAlive is how long a transition host counts as alive after its last heartbeat.
const hostAlive = 30 * time.Second

// HostOption says more of a transition host than that it lives at a URL.
type HostOption func(*Host)

// WithPrivateURL names the address by which agents of jobs with NetMode 2 reach a transition host. None when it is empty.
func WithPrivateURL(url string) HostOption { return func(h *Host) { h.PrivateURL = url } }

// HostHeartbeat records that a transition host lives, and where agents reach it. What no option says anymore is forgotten.
func (s *Store) HostHeartbeat(ctx context.Context, hostID, url string, options ...HostOption) error {
	host := Host{HostID: hostID, URL: url}
	for _, option := range options {
		option(&host)
	}
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO hosts (host_id, url, private_url, heartbeat_at) VALUES (?, ?, ?, ?)
			ON CONFLICT (host_id) DO UPDATE SET url = excluded.url, private_url = excluded.private_url, heartbeat_at = excluded.heartbeat_at`,
			host.HostID, host.URL, host.PrivateURL, millis(s.now()))
		return err
	})
}

// HostURL returns where a transition host is reached by all but the agents of jobs with NetMode 2, or ErrNotFound.
func (s *Store) HostURL(ctx context.Context, hostID string) (string, error) {
	var url string
	err := s.db.QueryRowContext(ctx, `SELECT url FROM hosts WHERE host_id = ?`, hostID).Scan(&url)
	if errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("transition host %s: %w", hostID, ErrNotFound)
	}
	return url, err
}

// pickHost chooses the live transition host with the fewest jobs; for a job with NetMode 2, among those with a private address if there are any.
func (s *Store) pickHost(ctx context.Context, tx *transaction, job *Job) (string, error) {
	first := "" // what all are equal in
	if job.PrivateNet() {
		first = `CASE WHEN h.private_url = '' THEN 1 ELSE 0 END, `
	}
	var hostID string
	err := tx.QueryRowContext(ctx, `SELECT h.host_id FROM hosts h LEFT JOIN replication_jobs j ON j.host_id = h.host_id
		WHERE h.heartbeat_at >= ? GROUP BY h.host_id ORDER BY `+first+`COUNT(j.job_id), h.host_id LIMIT 1`, millis(s.now().Add(-hostAlive))).Scan(&hostID)
	if errors.Is(err, sql.ErrNoRows) {
		return "", smc.Errorf(smc.CodeTransitionHostUnavailable, "no transition host has reported in the last %s: start a worker with the role transition", hostAlive)
	}
	return hostID, err
}

// requireHost refuses a run on a transition host that does not report: it holds the job's staging, and no other can do the work.
func (s *Store) requireHost(ctx context.Context, tx *transaction, hostID string) error {
	alive, err := s.hostsAlive(ctx, tx)
	if err == nil && !slices.Contains(alive, hostID) {
		err = smc.Errorf(smc.CodeTransitionHostUnavailable, "transition host %s, which holds the staging of the job, has not reported in the last %s: start its worker, with the same --data",
			hostID, hostAlive)
	}
	return err
}

// hostsAlive returns the transition hosts that have reported lately.
func (s *Store) hostsAlive(ctx context.Context, q reader) ([]string, error) {
	rows, err := q.QueryContext(ctx, `SELECT host_id FROM hosts WHERE heartbeat_at >= ?`, millis(s.now().Add(-hostAlive)))
	if err != nil {
		return nil, err
	}
	return collect(rows, scanText)
}
