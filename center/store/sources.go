package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

const selectSource = `SELECT source_id, account_id, region_id, name, description, state, error_code, status_info, server, heartbeat_at, created_at, sequence, job_id, workgroup_id
	FROM source_servers`

// rowScanner is *sql.Row or *sql.Rows.
type rowScanner interface{ Scan(dest ...any) error }

func scanSource(row rowScanner) (*Source, error) {
	var source Source
	var server string
	var heartbeat, created int64
	err := row.Scan(&source.SourceID, &source.AccountID, &source.RegionID, &source.Name, &source.Description, &source.State,
		&source.ErrorCode, &source.StatusInfo, &server, &heartbeat, &created, &source.Sequence, &source.JobID, &source.WorkgroupID)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(server), &source.Server); err != nil {
		return nil, fmt.Errorf("source %s: %w", source.SourceID, err)
	}
	source.HeartbeatAt, source.CreatedAt = fromMillis(heartbeat), fromMillis(created)
	return &source, nil
}

// SourceFilter narrows Sources; empty fields do not filter, the others must all match.
type SourceFilter struct {
	SourceIDs   []string
	JobID, Name string
	State       smc.SourceState
	WorkgroupID string
	Tags        []smc.TagFilter
}

// Page is a slice of a listing; Number counts from 1.
type Page struct{ Number, Size int }

// Sources lists the source servers of an account, newest first, and how many match in all.
func (s *Store) Sources(ctx context.Context, accountID string, filter SourceFilter, page Page) ([]*Source, int, error) {
	where := ofAccount(accountID)
	where.in("source_id", filter.SourceIDs)
	if filter.JobID != "" { // any job of the source, not only its newest
		where.clauses, where.args = append(where.clauses, "source_id = (SELECT source_id FROM replication_jobs WHERE job_id = ?)"), append(where.args, filter.JobID)
	}
	where.equal("name", filter.Name)
	where.equal("state", string(filter.State))
	where.equal("workgroup_id", filter.WorkgroupID)
	where.tagged("source_id", filter.Tags)
	return list(ctx, s.db, selectSource, "source_servers", "created_at DESC, source_id", where, page, scanSource)
}

// Source returns one source server of an account, or ErrNotFound.
func (s *Store) Source(ctx context.Context, accountID, sourceID string) (*Source, error) {
	return scanSource(s.db.QueryRowContext(ctx, selectSource+` WHERE account_id = ? AND source_id = ?`, accountID, sourceID))
}

// SourceByToken returns the source server an agent token belongs to, or ErrNotFound.
func (s *Store) SourceByToken(ctx context.Context, agentToken string) (*Source, error) {
	return scanSource(s.db.QueryRowContext(ctx, selectSource+` WHERE token_hash = ?`, hashSecret(agentToken)))
}

// Heartbeat records that a source's agent lives and what its server looks like. A source that was Unavailable returns
// to Available, or InUse when a job of it is Running.
func (s *Store) Heartbeat(ctx context.Context, sourceID string, server agentapi.Server) error {
	description, err := json.Marshal(server)
	if err != nil {
		return err
	}
	moved := false
	err = s.write(ctx, func(tx *transaction) error {
		source, err := scanSource(tx.QueryRowContext(ctx, selectSource+` WHERE source_id = ?`, sourceID))
		if err != nil {
			return fmt.Errorf("source %s: %w", sourceID, err)
		}
		if _, err := tx.ExecContext(ctx, `UPDATE source_servers SET heartbeat_at = ?, server = ? WHERE source_id = ?`,
			millis(s.now()), string(description), sourceID); err != nil {
			return err
		}
		before := source.Sequence
		err = s.moveSource(ctx, tx, source, "")
		moved = source.Sequence != before
		return err
	})
	if err == nil && moved { // a fleet's heartbeats come all the time, and hardly one of them writes an event
		s.outboxChanged.notify()
	}
	return err
}

// MarkOffline makes every source server Unavailable that was last heard of before the given time (CONTRACT: offline
// after three heartbeats), and returns the ids of those that this call made so: any number of centers may look at once.
func (s *Store) MarkOffline(ctx context.Context, before time.Time) ([]string, error) {
	var stale []*Source
	rows, err := s.db.QueryContext(ctx, selectSource+` WHERE heartbeat_at < ? AND state NOT IN (?, ?)`, millis(before),
		string(smc.SourceUnavailable), string(smc.SourceDeleting))
	if err != nil {
		return nil, err
	}
	if stale, err = collect(rows, scanSource); err != nil || len(stale) == 0 {
		return nil, err
	}
	var ids []string
	err = s.writeEvents(ctx, func(tx *transaction) error {
		ids = nil
		for _, candidate := range stale {
			source, err := scanSource(tx.QueryRowContext(ctx, selectSource+` WHERE source_id = ?`, candidate.SourceID))
			if errors.Is(err, ErrNotFound) || err == nil && (source.State == smc.SourceUnavailable || source.State == smc.SourceDeleting || !source.HeartbeatAt.Before(before)) {
				continue // gone or going, marked by another center, or heard of since
			}
			if err != nil {
				return err
			}
			if err := s.moveSource(ctx, tx, source, smc.CodeSourceServerOffline); err != nil {
				return err
			}
			ids = append(ids, source.SourceID)
		}
		return nil
	})
	return ids, err
}

// moveSource gives a source the State that follows from the record: Unavailable with errorCode when one is given,
// else InUse while a job of it is Running, else Available. It writes an event when that is a change.
func (s *Store) moveSource(ctx context.Context, tx *transaction, source *Source, errorCode string) error {
	previous := source.State
	if previous == smc.SourceDeleting {
		return nil
	}
	var running int
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM replication_jobs WHERE source_id = ? AND status = ?`,
		source.SourceID, string(smc.StatusRunning)).Scan(&running); err != nil {
		return err
	}
	source.ErrorCode, source.StatusInfo = errorCode, ""
	what := events.SourceFreed
	switch {
	case errorCode != "":
		source.State, what = smc.SourceUnavailable, events.SourceOffline
		info, err := json.Marshal(map[string]string{
			"error_code": errorCode,
			"error_msg":  "no heartbeat since " + source.HeartbeatAt.Format(time.RFC3339) + ": check that the agent runs and reaches the center",
		})
		if err != nil {
			return err
		}
		source.StatusInfo = string(info)
	case running > 0:
		source.State, what = smc.SourceInUse, events.SourceTaken
	default:
		source.State = smc.SourceAvailable
	}
	if source.State == previous {
		return nil
	}
	if previous == smc.SourceUnavailable {
		what = events.SourceBack
	}
	return s.sourceEvent(ctx, tx, what, source, previous)
}

// conditions builds the WHERE clause of a listing.
type conditions struct {
	clauses []string
	args    []any
}

// ofAccount keeps the rows of an account.
func ofAccount(accountID string) *conditions {
	return &conditions{clauses: []string{"account_id = ?"}, args: []any{accountID}}
}

func (c *conditions) equal(column, value string) {
	if value != "" {
		c.clauses, c.args = append(c.clauses, column+" = ?"), append(c.args, value)
	}
}

func (c *conditions) in(column string, values []string) { c.compare(column, "IN", values) }

func (c *conditions) notIn(column string, values []string) { c.compare(column, "NOT IN", values) }

func (c *conditions) compare(column, operator string, values []string) {
	if len(values) == 0 {
		return
	}
	// The last one is repeated up to a power of two, so that there are few statements to keep prepared.
	n := 1 << bits.Len(uint(len(values)-1))
	c.clauses = append(c.clauses, column+" "+operator+" (?"+strings.Repeat(", ?", n-1)+")")
	for i := range n {
		c.args = append(c.args, values[min(i, len(values)-1)])
	}
}

func (c *conditions) String() string { return " WHERE " + strings.Join(c.clauses, " AND ") }

func list[T any](ctx context.Context, db *database, selectRows, table, order string, where *conditions, page Page, scan func(rowScanner) (T, error)) ([]T, int, error) {
	ctx = toEnd(ctx)
	var total int
	if err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+table+where.String(), where.args...).Scan(&total); err != nil {
		return nil, 0, err
	}
	rows, err := db.QueryContext(ctx, selectRows+where.String()+` ORDER BY `+order+` LIMIT ? OFFSET ?`,
		append(where.args, page.Size, (page.Number-1)*page.Size)...)
	if err != nil {
		return nil, 0, err
	}
	items, err := collect(rows, scan)
	return items, total, err
}

// manyRows is *rows, or *sql.Rows.
type manyRows interface {
	rowScanner
	Next() bool
	Err() error
	Close() error
}

func collect[T any](rows manyRows, scan func(rowScanner) (T, error)) ([]T, error) {
	defer func() { _ = rows.Close() }()
	var items []T
	for rows.Next() {
		item, err := scan(rows)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, rows.Err()
}
