package store

import (
	"context"
	"fmt"
	"time"
)

// Follow tells those who wait in this process of what other processes commit, until ctx is done. It looks at the heads
// of two indexes at every interval: one look for all who wait.
func (s *Store) Follow(ctx context.Context, interval time.Duration, onError func(error)) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var outbox, change int64
	for {
		if err := s.follow(ctx, &outbox, &change); err != nil && ctx.Err() == nil {
			onError(fmt.Errorf("look for what other processes committed: %w", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (s *Store) follow(ctx context.Context, outbox, change *int64) error {
	var newest int64
	if err := s.db.QueryRowContext(ctx, `SELECT COALESCE(MAX(id), 0) FROM outbox`).Scan(&newest); err != nil {
		return err
	}
	if newest > *outbox {
		*outbox = newest
		s.outboxChanged.notify()
	}
	rows, err := s.db.QueryContext(ctx, `SELECT source_id, change FROM sync_sessions WHERE change > ?`, *change)
	if err != nil {
		return err
	}
	changed, err := collect(rows, func(row rowScanner) (string, error) {
		var sourceID string
		var number int64
		err := row.Scan(&sourceID, &number)
		*change = max(*change, number)
		return sourceID, err
	})
	for _, sourceID := range changed {
		s.workChanged.notify(sourceID)
	}
	return err
}
