package store

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/drover/drover/smc"
)

// OpenAsIs opens a database as it is: nothing is made, brought up to date or sealed. Only what Schemas says to be equal may be
// read by the other methods.
func OpenAsIs(databaseURL string, options ...Option) (*Store, error) {
	if u, err := url.Parse(databaseURL); err == nil && u.Scheme == "sqlite" {
		if _, err := os.Stat(u.Path); err != nil {
			return nil, fmt.Errorf("open the database: %w", err) // it would be made
		}
	}
	db, err := open(databaseURL)
	if err != nil {
		return nil, err
	}
	s := &Store{db: db, now: time.Now, outboxChanged: newNotifier()}
	for _, option := range options {
		option(s)
	}
	return s, nil
}

// Schemas returns the version of the database's tables, and the one this program works with. Error: ErrNotFound for a database
// that no center has used.
func (s *Store) Schemas(ctx context.Context) (database, program int64, err error) {
	tables, err := s.db.texts(ctx, s.db.DB, s.db.catalog().tables)
	if err != nil {
		return 0, 0, err
	}
	if len(tables) == 0 {
		return 0, 0, fmt.Errorf("tables of a center: %w", ErrNotFound)
	}
	if err := s.db.QueryRowContext(ctx, `SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version`).Scan(&database); err != nil {
		return 0, 0, err
	}
	program, err = newestSchema()
	return database, program, err
}

// newestSchema is the version that the migrations lead to.
func newestSchema() (newest int64, err error) {
	entries, err := migrations.ReadDir("migrations/sqlite") // both have the same
	for _, entry := range entries {
		var version int64
		if _, err := fmt.Sscanf(entry.Name(), "%d_", &version); err != nil {
			return 0, fmt.Errorf("migration %s: %w", entry.Name(), err)
		}
		newest = max(newest, version)
	}
	return newest, err
}

// CheckSecrets tries whether the keys open what is sealed in the database. Error: ErrNotOpened.
func (s *Store) CheckSecrets(ctx context.Context) error {
	return s.db.read(ctx, func(tx *transaction) error {
		secrets, err := storedSecrets(ctx, tx)
		if err != nil {
			return err
		}
		for place, stored := range secrets {
			if _, err := s.unseal(place, stored); err != nil {
				return err
			}
		}
		return nil
	})
}

// StoredAuthorities returns the center's certificate authorities as CertificateAuthorities does, and empty text when there are
// none.
func (s *Store) StoredAuthorities(ctx context.Context) (string, error) {
	stored, ok, err := readSetting(ctx, s.db, certificateAuthoritiesName)
	if err != nil || !ok {
		return "", err
	}
	return s.unseal(secretPlace{settingValue, certificateAuthoritiesName}, stored)
}

// LastBackup returns the time that the last backup shows; the zero time when the record knows of none.
func (s *Store) LastBackup(ctx context.Context) (at time.Time, err error) {
	text, ok, err := readSetting(ctx, s.db, lastBackupSetting)
	if err != nil || !ok {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339, text)
}

// AllJobs returns every job there is, of all accounts, with its place in the queue and with what keeps it from getting on.
func (s *Store) AllJobs(ctx context.Context) ([]*Job, error) {
	ctx = patiently(ctx)
	rows, err := s.db.QueryContext(ctx, selectJob+` ORDER BY created_at, job_id`)
	if err != nil {
		return nil, err
	}
	jobs, err := collect(rows, scanJob)
	if err != nil {
		return nil, err
	}
	queued := map[string][]*Job{}
	var running []*Job
	for _, job := range jobs {
		if job.Queued() {
			queued[job.AccountID] = append(queued[job.AccountID], job)
		}
		if job.Status == smc.StatusRunning {
			running = append(running, job)
		}
	}
	for _, ofAccount := range queued {
		if err := s.fillQueue(ctx, s.db, ofAccount...); err != nil {
			return nil, err
		}
	}
	const batch = 500 // names in one statement
	for len(running) > 0 {
		n := min(batch, len(running))
		if err := fillTroubles(ctx, s.db, running[:n]...); err != nil {
			return nil, err
		}
		running = running[n:]
	}
	return jobs, nil
}

// SourceState is how a source server stands.
type SourceState struct {
	SourceID, Name string
	State          smc.SourceState
	HeartbeatAt    time.Time
	AgentVersion   string
	ClockAhead     time.Duration // of its agent's machine, to its center's
}

// SourceStates returns how all source servers stand, of all accounts.
func (s *Store) SourceStates(ctx context.Context) ([]SourceState, error) {
	ctx = patiently(ctx)
	ahead := map[string]int64{}
	rows, err := s.db.QueryContext(ctx, `SELECT source_id, clock_ahead FROM source_servers`)
	if err != nil {
		return nil, err
	}
	if _, err = collect(rows, func(row rowScanner) (struct{}, error) {
		var id string
		var ms int64
		err := row.Scan(&id, &ms)
		ahead[id] = ms
		return struct{}{}, err
	}); err != nil {
		return nil, err
	}
	if rows, err = s.db.QueryContext(ctx, selectSource+` ORDER BY name, source_id`); err != nil {
		return nil, err
	}
	return collect(rows, func(row rowScanner) (SourceState, error) {
		source, err := scanSource(row)
		if err != nil {
			return SourceState{}, err
		}
		return SourceState{
			SourceID: source.SourceID, Name: source.Name, State: source.State, HeartbeatAt: source.HeartbeatAt,
			AgentVersion: source.Server.AgentVersion, ClockAhead: time.Duration(ahead[source.SourceID]) * time.Millisecond,
		}, nil
	})
}

// HostState is how a transition host stands.
type HostState struct {
	Host
	Alive                 bool // it has reported itself lately
	FreeBytes, TotalBytes int64
	SweptAt               time.Time // when it looked for orphans last; zero: it never did
	Jobs, Images          int       // that it holds
}

// HostStates returns how all transition hosts stand.
func (s *Store) HostStates(ctx context.Context) ([]HostState, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT host_id, url, private_url, heartbeat_at, free_bytes, total_bytes, swept_at,
		(SELECT COUNT(*) FROM replication_jobs j WHERE j.host_id = hosts.host_id), (SELECT COUNT(*) FROM images i WHERE i.host_id = hosts.host_id)
		FROM hosts ORDER BY host_id`)
	if err != nil {
		return nil, err
	}
	return collect(rows, func(row rowScanner) (h HostState, err error) {
		var heartbeat, swept int64
		err = row.Scan(&h.HostID, &h.URL, &h.PrivateURL, &heartbeat, &h.FreeBytes, &h.TotalBytes, &swept, &h.Jobs, &h.Images)
		h.HeartbeatAt, h.SweptAt = fromMillis(heartbeat), fromMillis(swept)
		h.Alive = !h.HeartbeatAt.Before(s.now().Add(-hostAlive))
		return h, err
	})
}

// EventGap is a resource whose events are not numbered without gap.
type EventGap struct {
	ResourceID string
	// After is the number of the last event before the gap, Next that of the first one after it; 0 when the resource's row is
	// ahead of its last event.
	After, Next int64
}

// EventGaps returns the gaps in the numbers of the outbox's events. What a restore has left out is none: its next event says so.
func (s *Store) EventGaps(ctx context.Context) ([]EventGap, error) {
	ctx = patiently(ctx)
	scan := func(row rowScanner) (g EventGap, err error) { return g, row.Scan(&g.ResourceID, &g.After, &g.Next) }
	rows, err := s.db.QueryContext(ctx, `SELECT resource_id, before, sequence FROM (SELECT resource_id, sequence, transition_key,
			LAG(sequence) OVER (PARTITION BY resource_id ORDER BY sequence) AS before FROM outbox) AS numbered
		WHERE before IS NOT NULL AND sequence <> before + 1 AND transition_key NOT LIKE 'restored/%' ORDER BY resource_id, sequence`)
	if err != nil {
		return nil, err
	}
	gaps, err := collect(rows, scan)
	if err != nil {
		return nil, err
	}
	// One statement sees one moment: the row and the event of a transition are written together.
	if rows, err = s.db.QueryContext(ctx, `SELECT id, last, 0 FROM (
			SELECT job_id AS id, sequence, COALESCE((SELECT MAX(sequence) FROM outbox WHERE resource_id = job_id), 0) AS last FROM replication_jobs
			UNION ALL
			SELECT source_id, sequence, COALESCE((SELECT MAX(sequence) FROM outbox WHERE resource_id = source_id), 0) FROM source_servers) AS resources
		WHERE sequence <> last ORDER BY id`); err != nil {
		return nil, err
	}
	ahead, err := collect(rows, scan)
	return append(gaps, ahead...), err
}

// EventHead is the last event of a subject that is said to be in the stream.
type EventHead struct {
	Subject        string
	ResourceID     string
	Sequence       uint64
	StreamSequence uint64
}

// PublishedHeads calls each with the last event of every subject that has a place in the stream, and with the numbers that may
// be missing before it because a restore left them out: the sequence of the event that follows them.
func (s *Store) PublishedHeads(ctx context.Context) (heads []EventHead, restored map[string]map[uint64]bool, err error) {
	ctx = patiently(ctx)
	err = s.db.read(ctx, func(tx *transaction) error {
		rows, err := tx.QueryContext(ctx, `SELECT subject, resource_id, MAX(sequence), MAX(stream_sequence) FROM outbox
			WHERE published = 1 AND stream_sequence > 0 GROUP BY subject, resource_id`)
		if err != nil {
			return err
		}
		heads, err = collect(rows, func(row rowScanner) (h EventHead, err error) {
			return h, row.Scan(&h.Subject, &h.ResourceID, &h.Sequence, &h.StreamSequence)
		})
		if err != nil {
			return err
		}
		restored = map[string]map[uint64]bool{}
		if rows, err = tx.QueryContext(ctx, `SELECT subject, sequence FROM outbox WHERE transition_key LIKE 'restored/%'`); err != nil {
			return err
		}
		_, err = collect(rows, func(row rowScanner) (struct{}, error) {
			var subject string
			var sequence uint64
			err := row.Scan(&subject, &sequence)
			if restored[subject] == nil {
				restored[subject] = map[uint64]bool{}
			}
			restored[subject][sequence] = true
			return struct{}{}, err
		})
		return err
	})
	return heads, restored, err
}
