package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// rewind is a rewind of the outbox that is under way: the events from From on are made unpublished again, and none is
// said to be in the stream. Until it is through, no event is published, or one could overtake its predecessors.
type rewind struct {
	From  int64 `json:"from"`  // events before it are not published again
	Next  int64 `json:"next"`  // where the rewind is
	Until int64 `json:"until"` // where it ends
	// Forget says that nothing of before is in the stream, events before From included.
	Forget bool `json:"forget"`
}

// RewindFrom says which events are to be published again. The zero value is all.
type RewindFrom struct {
	// Since: those that were written at that time or later.
	Since time.Time
	// StreamSequence: those that had that sequence in the stream or a later one, and what was written after the first.
	StreamSequence uint64
	// NewStream says that the stream is not the one that events were published to: those that are not published again have
	// no place in it.
	NewStream bool
}

// Rewind has the relay publish events again that the stream may have lost, all of them in their order; what the stream has
// it finds there. It returns how many there are. A rewind that was interrupted goes on when events are next read.
func (s *Store) Rewind(ctx context.Context, from RewindFrom) (events int, err error) {
	ctx = patiently(ctx)
	err = s.write(ctx, func(tx *transaction) error {
		r := rewind{Next: 1, Forget: from.NewStream}
		query, args := `SELECT COALESCE(MIN(id), 1), COALESCE(MAX(id), 0) FROM outbox`, []any(nil)
		switch {
		case from.StreamSequence > 0:
			query = `SELECT COALESCE((SELECT MIN(id) FROM outbox WHERE stream_sequence >= ?), MAX(id) + 1, 1), COALESCE(MAX(id), 0) FROM outbox`
			args = []any{from.StreamSequence}
		case !from.Since.IsZero():
			query = `SELECT COALESCE((SELECT MIN(id) FROM outbox WHERE created_at >= ?), MAX(id) + 1, 1), COALESCE(MAX(id), 0) FROM outbox`
			args = []any{millis(from.Since)}
		}
		if err := tx.QueryRowContext(ctx, query, args...).Scan(&r.From, &r.Until); err != nil {
			return err
		}
		if under, ok, err := readRewind(ctx, tx); err != nil {
			return err
		} else if ok {
			r.From, r.Forget = min(r.From, under.From), r.Forget || under.Forget // both get what they asked for
		}
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM outbox WHERE id >= ?`, r.From).Scan(&events); err != nil {
			return err
		}
		return writeRewind(ctx, tx, r)
	})
	if err != nil {
		return 0, fmt.Errorf("rewind the outbox: %w", err)
	}
	if err := s.finishRewind(ctx); err != nil {
		return 0, err
	}
	s.outboxChanged.notify()
	return events, nil
}

// RewindAll implements events.Rewinder.
func (s *Store) RewindAll(ctx context.Context) error {
	_, err := s.Rewind(ctx, RewindFrom{NewStream: true})
	return err
}

// NotInStream counts the events that are marked published and have no place in the stream.
func (s *Store) NotInStream(ctx context.Context) (n int, err error) {
	ctx = patiently(ctx)
	return n, s.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM outbox WHERE published = 1 AND stream_sequence = 0`).Scan(&n)
}

func readRewind(ctx context.Context, from reader) (r rewind, ok bool, err error) {
	text, ok, err := readSetting(ctx, from, rewindSetting)
	if err != nil || !ok {
		return r, false, err
	}
	return r, true, json.Unmarshal([]byte(text), &r)
}

func writeRewind(ctx context.Context, tx *transaction, r rewind) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeSetting(ctx, tx, rewindSetting, string(text))
}

// rewindBatch is how many events one transaction rewinds.
const rewindBatch = 5000

// finishRewind carries a rewind to its end, if one is under way.
func (s *Store) finishRewind(ctx context.Context) error {
	ctx = patiently(ctx)
	if _, ok, err := readRewind(ctx, s.db); err != nil || !ok {
		return err
	}
	for done := false; !done; {
		err := s.write(ctx, func(tx *transaction) error {
			r, ok, err := readRewind(ctx, tx)
			if done = !ok || r.Next > r.Until; err != nil || !ok {
				return err
			}
			if done {
				return deleteSetting(ctx, tx, rewindSetting)
			}
			if r.Forget {
				if _, err := tx.ExecContext(ctx, `UPDATE outbox SET stream_sequence = 0, rewinds = rewinds + 1 WHERE id >= ? AND id < ?`, r.Next, r.Next+rewindBatch); err != nil {
					return err
				}
			}
			if _, err := tx.ExecContext(ctx, `UPDATE outbox SET stream_sequence = 0, published = 0, rewinds = rewinds + 1 WHERE id >= ? AND id < ?`,
				max(r.From, r.Next), r.Next+rewindBatch); err != nil {
				return err
			}
			r.Next += rewindBatch
			return writeRewind(ctx, tx, r)
		})
		if err != nil {
			return fmt.Errorf("rewind the outbox: %w", err)
		}
	}
	return nil
}
