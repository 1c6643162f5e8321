package store

import (
	"context"
	"fmt"
	"time"
)

// Follow tells those who wait in this process of what other processes commit, until ctx is done. It looks at the heads
// of three indexes at every interval: one look for all who wait.
func (s *Store) Follow(ctx context.Context, interval time.Duration, onError func(error)) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var seen followed
	for {
		if err := s.follow(ctx, &seen); err != nil && ctx.Err() == nil {
			onError(fmt.Errorf("look for what other processes committed: %w", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// followed is how far the commits of other processes were seen: the last event, and the last changes of what agents and targets have to learn.
type followed struct{ outbox, session, delivery int64 }

func (s *Store) follow(ctx context.Context, seen *followed) error {
	var newest int64
	if err := s.db.QueryRowContext(ctx, `SELECT COALESCE(MAX(id), 0) FROM outbox`).Scan(&newest); err != nil {
		return err
	}
	if newest > seen.outbox {
		seen.outbox = newest
		s.outboxChanged.notify()
	}
	rows, err := s.db.QueryContext(ctx, `SELECT source_id, change, 0 FROM sync_sessions WHERE change > ?
		UNION ALL SELECT instance_id, 0, change FROM deliveries WHERE change > ?`, seen.session, seen.delivery)
	if err != nil {
		return err
	}
	changed, err := collect(rows, func(row rowScanner) (string, error) {
		var id string
		var session, delivery int64
		err := row.Scan(&id, &session, &delivery)
		seen.session, seen.delivery = max(seen.session, session), max(seen.delivery, delivery)
		return id, err
	})
	for _, id := range changed {
		s.workChanged.notify(id)
	}
	return err
}
