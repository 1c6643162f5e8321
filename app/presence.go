package app

import (
	"context"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/replica"
)

const (
	// presenceEvery is how often a process reports itself, and presenceLost how long after its last report it is taken for gone.
	presenceEvery = 30 * time.Second
	presenceLost  = 3 * presenceEvery
)

// reportPresence says in the record that this process is there, which version it is, and how far its clock is from the
// database's, until ctx is done: what drover doctor compares. Nothing else depends on it.
func reportPresence(ctx context.Context, record *store.Store, program, hostID string, log *zap.Logger) error {
	machine, err := os.Hostname()
	if err != nil {
		machine = "unknown"
	}
	process := store.Process{ProcessID: store.NewID("p"), Program: program, Machine: machine, HostID: hostID, Version: Version()}
	ticker := time.NewTicker(presenceEvery)
	defer ticker.Stop()
	for {
		if err := record.ReportProcess(ctx, process); err != nil && ctx.Err() == nil {
			log.Warn("this process could not report itself", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			endPresence(ctx, record, process.ProcessID)
			return nil
		case <-ticker.C:
		}
	}
}

// endPresence takes a process that ends out of the record; should that fail, it is forgotten there.
func endPresence(ctx context.Context, record *store.Store, processID string) {
	const limit = 2 * time.Second
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	_ = record.EndProcess(ctx, processID)
}

// reportVolume says in the record how much room a transition host has, until ctx is done.
func reportVolume(ctx context.Context, record *store.Store, host *replica.Host, log *zap.Logger) error {
	ticker := time.NewTicker(presenceEvery)
	defer ticker.Stop()
	for {
		free, total, err := host.Volume()
		if err == nil {
			err = record.ReportVolume(ctx, host.ID(), free, total)
		}
		if err != nil && ctx.Err() == nil {
			log.Warn("the room on the volume could not be reported", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
