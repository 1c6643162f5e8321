package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Process is a server or a worker of the center, as it reported itself last.
type Process struct {
	ProcessID string
	Program   string // drover-server; drover-worker with its roles
	Machine   string
	HostID    string // of the transition host it is; empty when it is none
	Version   string
	// ClockAhead is by how much its clock is ahead of the database's.
	ClockAhead             time.Duration
	StartedAt, HeartbeatAt time.Time // by the database's clock
}

// processForgotten is how long after its last report a process is forgotten. One that ends in order takes itself out.
const processForgotten = 24 * time.Hour

// ReportProcess records that a process lives. Its ClockAhead, StartedAt and HeartbeatAt are found out here.
func (s *Store) ReportProcess(ctx context.Context, p Process) error {
	now, ahead, err := s.clock(ctx)
	if err != nil {
		return err
	}
	return s.write(ctx, func(tx *transaction) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO processes (process_id, program, machine, host_id, version, clock_ahead, started_at, heartbeat_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (process_id) DO UPDATE SET clock_ahead = excluded.clock_ahead, heartbeat_at = excluded.heartbeat_at`,
			p.ProcessID, p.Program, p.Machine, p.HostID, p.Version, ahead.Milliseconds(), millis(now), millis(now)); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM processes WHERE heartbeat_at < ?`, millis(now.Add(-processForgotten)))
		return err
	})
}

// EndProcess takes a process out of the list: it ends in order.
func (s *Store) EndProcess(ctx context.Context, processID string) error {
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM processes WHERE process_id = ?`, processID)
		return err
	})
}

// Processes returns the processes that have reported themselves within a time, by program.
func (s *Store) Processes(ctx context.Context, within time.Duration) ([]Process, error) {
	now, _, err := s.clock(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.db.QueryContext(ctx, `SELECT process_id, program, machine, host_id, version, clock_ahead, started_at, heartbeat_at
		FROM processes WHERE heartbeat_at >= ? ORDER BY program, machine, process_id`, millis(now.Add(-within)))
	if err != nil {
		return nil, err
	}
	return collect(rows, func(row rowScanner) (p Process, err error) {
		var ahead, started, heartbeat int64
		err = row.Scan(&p.ProcessID, &p.Program, &p.Machine, &p.HostID, &p.Version, &ahead, &started, &heartbeat)
		p.ClockAhead, p.StartedAt, p.HeartbeatAt = time.Duration(ahead)*time.Millisecond, fromMillis(started), fromMillis(heartbeat)
		return p, err
	})
}

// clock returns the time of the database, and by how much this process's clock is ahead of it.
func (s *Store) clock(ctx context.Context) (now time.Time, ahead time.Duration, err error) {
	var ms int64
	before := s.now()
	if err := s.db.QueryRowContext(ctx, `SELECT `+s.db.clock()).Scan(&ms); err != nil {
		return time.Time{}, 0, err
	}
	after := s.now()
	return fromMillis(ms), before.Add(after.Sub(before) / 2).Sub(fromMillis(ms)), nil
}

// ClockAhead returns by how much the clock of this process is ahead of the database's. They are one clock where the database is
// a file.
func (s *Store) ClockAhead(ctx context.Context) (time.Duration, error) {
	_, ahead, err := s.clock(ctx)
	return ahead, err
}

// NoteAgentClock records by how much the clock of an agent's machine is ahead of this one. What changes by less than a second
// is not written. Error: ErrNotFound.
func (s *Store) NoteAgentClock(ctx context.Context, sourceID string, ahead time.Duration) error {
	return s.noteClock(ctx, "source_servers", "source_id", sourceID, ahead)
}

// NoteTargetClock is NoteAgentClock for a target instance.
func (s *Store) NoteTargetClock(ctx context.Context, instanceID string, ahead time.Duration) error {
	return s.noteClock(ctx, "target_instances", "instance_id", instanceID, ahead)
}

func (s *Store) noteClock(ctx context.Context, table, column, id string, ahead time.Duration) error {
	const least = time.Second
	var known int64
	err := s.db.QueryRowContext(ctx, `SELECT clock_ahead FROM `+table+` WHERE `+column+` = ?`, id).Scan(&known)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	if err != nil {
		return err
	}
	if (ahead - time.Duration(known)*time.Millisecond).Abs() < least {
		return nil
	}
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, `UPDATE `+table+` SET clock_ahead = ? WHERE `+column+` = ?`, ahead.Milliseconds(), id)
		return err
	})
}

// ReportVolume records the room on the volume of a transition host.
func (s *Store) ReportVolume(ctx context.Context, hostID string, free, total int64) error {
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, `UPDATE hosts SET free_bytes = ?, total_bytes = ? WHERE host_id = ?`, free, total, hostID)
		return err
	})
}

// lastBackupSetting holds when the last backup was taken that this record knows of.
const lastBackupSetting = "last_backup"

// NoteBackup records that a backup was taken that shows the record as of a time.
func (s *Store) NoteBackup(ctx context.Context, at time.Time) error {
	return s.write(ctx, func(tx *transaction) error {
		return writeSetting(ctx, tx, lastBackupSetting, at.UTC().Format(time.RFC3339))
	})
}
