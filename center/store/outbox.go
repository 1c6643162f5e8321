package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/drover/drover/events"
)

// The store is the outbox that the relay moves to the stream.
var (
	_ events.Outbox   = (*Store)(nil)
	_ events.Rewinder = (*Store)(nil)
)

// selectOutbox reads records; prev is where the record before it of the same subject stands in the stream.
const selectOutbox = `SELECT o.event_id, o.subject, o.sequence, o.event, o.created_at,
	COALESCE((SELECT p.stream_sequence FROM outbox p WHERE p.subject = o.subject AND p.id < o.id ORDER BY p.id DESC LIMIT 1), 0), o.rewinds
	FROM outbox o`

func scanRecord(row rowScanner) (events.Record, error) {
	var record events.Record
	var created int64
	var event string
	err := row.Scan(&record.ID, &record.Subject, &record.Sequence, &event, &created, &record.PrevStreamSeq, &record.Rewinds)
	record.Time, record.Data = fromMillis(created), []byte(event)
	return record, err
}

// Pending implements events.Outbox: the oldest unpublished events, in the order they were written.
func (s *Store) Pending(ctx context.Context, limit int) ([]events.Record, error) {
	for {
		if err := s.finishRewind(ctx); err != nil {
			return nil, err
		}
		// One that has begun meanwhile is not seen half done.
		rows, err := s.db.QueryContext(ctx, selectOutbox+` WHERE o.published = 0 AND NOT EXISTS (SELECT 1 FROM settings WHERE name = ?)
			ORDER BY o.id LIMIT ?`, rewindSetting, limit)
		if err != nil {
			return nil, err
		}
		records, err := collect(rows, scanRecord)
		if err != nil || len(records) > 0 {
			return records, err
		}
		if _, under, err := readRewind(ctx, s.db); err != nil || !under {
			return nil, err
		}
	}
}

// MarkPublished implements events.Outbox: it records where in the stream an event stands.
func (s *Store) MarkPublished(ctx context.Context, event events.Record, streamSequence uint64) error {
	return s.write(ctx, func(tx *transaction) error {
		n, err := rowsAffected(tx.ExecContext(ctx, `UPDATE outbox SET stream_sequence = ?, published = 1 WHERE event_id = ? AND rewinds = ?`,
			streamSequence, event.ID, event.Rewinds))
		if err != nil || n > 0 {
			return err
		}
		var rewinds uint64
		err = tx.QueryRowContext(ctx, `SELECT rewinds FROM outbox WHERE event_id = ?`, event.ID).Scan(&rewinds)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return fmt.Errorf("event %s: %w", event.ID, ErrNotFound)
		case err != nil:
			return err
		}
		return fmt.Errorf("event %s: %w", event.ID, events.ErrRewound)
	})
}

// Events returns the events of a resource in order, published or not.
func (s *Store) Events(ctx context.Context, resourceID string) ([]events.Record, error) {
	rows, err := s.db.QueryContext(ctx, selectOutbox+` WHERE o.resource_id = ? ORDER BY o.sequence`, resourceID)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanRecord)
}

// enqueue numbers nothing: it puts a numbered event into the outbox, under the key of its transition.
func (s *Store) enqueue(ctx context.Context, tx *transaction, resourceID, key string, payload events.Payload) error {
	record, err := events.NewRecord(payload)
	if err != nil {
		return err
	}
	return tx.later(ctx, nil, `INSERT INTO outbox (event_id, resource_id, sequence, transition_key, subject, event, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		record.ID, resourceID, record.Sequence, key, record.Subject, string(record.Data), millis(s.now()))
}

// written reports whether a transition of that key is in the outbox already.
func written(ctx context.Context, tx *transaction, resourceID, key string) (bool, error) {
	var one int
	err := tx.QueryRowContext(ctx, `SELECT 1 FROM outbox WHERE resource_id = ? AND transition_key = ?`, resourceID, key).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}
