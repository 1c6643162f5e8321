package main

import (
	"context"
	"io"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/drover/drover/app"
	"github.com/drover/drover/smc"
)

const rebuildUsage = `Usage: drover-server rebuild [flags]

Starts the entity of every job of the database in Temporal, where its job is: at rest, or in the phase its run had reached.
Entities that are there are left alone, so it may be run again at any time, also while the center runs. After a restore it
first brings the database in line with the stream of events; servers and workers wait for that.

Flags (the variable in brackets is read when the flag is not given):
`

const backupUsage = `Usage: drover-server backup --to FOLDER [--data FOLDER]... [flags]

Copies the database, as it is at one moment, and the images of the transition hosts whose data is given into a new folder
in FOLDER, while everything runs. What an earlier backup in FOLDER has is not copied again. Prints the new folder's path.
The secret key file is not copied: keep it elsewhere.

Flags (the variable in brackets is read when the flag is not given):
`

const restoreUsage = `Usage: drover-server restore --from FOLDER [--data [HOST=]FOLDER]... [flags]

Gives back a backup, or the newest in a folder of them, after it has verified all of it: the database into an empty one, of
either kind, and the images of a transition host into an empty folder. drover-server rebuild comes next. With --images-only a
host gets the images back that it has lost, and keeps what it has.

Flags (the variable in brackets is read when the flag is not given):
`

const replayUsage = `Usage: drover-server events replay --from beginning|SEQUENCE|TIME|DURATION [flags]

Publishes the events of the database again that the stream lacks: each once, and those of a resource in order. Doing it
again adds nothing. The center may run meanwhile.

Flags (the variable in brackets is read when the flag is not given):
`

const doctorUsage = `Usage: drover-server doctor [--fix] [--remove NAME]... [-o json] [flags]

Looks over the center and lists what is wrong, each with what it means and what to do next: docs/operations.md, Doctor. It reads
the database, NATS and Temporal, and what the processes, transition hosts and agents report into the database; it says which
of them it could not look at. It writes nothing unless --fix or --remove is given, and may be run while the center does.

Exit codes: 0 nothing is wrong, 1 something is, 2 a part could not be looked at.

Flags (the variable in brackets is read when the flag is not given):
`

// commands are what the program does beside serving.
func commands(getenv func(string) string) []app.Program {
	connections := app.ConnectionsFromEnv(getenv)
	rebuild := &app.RebuildConfig{Connections: connections}
	backup := &app.BackupConfig{Connections: connections}
	restore := &app.RestoreConfig{Connections: connections}
	replay := &app.ReplayConfig{Connections: connections}
	doctor := app.DoctorFromEnv(getenv)
	return []app.Program{
		{
			Name: "drover-server doctor", Usage: doctorUsage, Check: doctor.Check,
			Define: func(flags *pflag.FlagSet) { app.DoctorFlags(flags, &doctor) },
			Command: func(ctx context.Context, stdout, stderr io.Writer, log *zap.Logger) error {
				return app.Doctor(ctx, doctor, stdout, stderr, log)
			},
		},
		{
			Name: "drover-server rebuild", Usage: rebuildUsage, Check: rebuild.Check,
			Define: func(flags *pflag.FlagSet) {
				app.ConnectionFlags(flags, &rebuild.Connections)
				flags.StringVar(&rebuild.RegionID, "region", getenv(smc.EnvRegion), "the `REGION` this center is (DROVER_REGION)")
				flags.BoolVar(&rebuild.Replace, "replace", false, "end the entities there are and start all from the database")
			},
			Command: func(ctx context.Context, _, stderr io.Writer, log *zap.Logger) error {
				return app.Rebuild(ctx, *rebuild, stderr, log)
			},
		},
		{
			Name: "drover-server backup", Usage: backupUsage, Check: backup.Check,
			Define: func(flags *pflag.FlagSet) {
				app.RecordFlags(flags, &backup.Connections)
				flags.StringVar(&backup.To, "to", "", "`FOLDER` of backups, made when absent")
				flags.StringArrayVar(&backup.DataDirs, "data", nil, "data `FOLDER` of a transition host on this machine; may be repeated")
				flags.BoolVar(&backup.ImagesOnly, "images-only", false, "leave the database out: for transition hosts on other machines")
			},
			Command: func(ctx context.Context, stdout, stderr io.Writer, log *zap.Logger) error {
				return app.Backup(ctx, *backup, stdout, stderr, log)
			},
		},
		{
			Name: "drover-server restore", Usage: restoreUsage, Check: restore.Check,
			Define: func(flags *pflag.FlagSet) {
				app.RecordFlags(flags, &restore.Connections)
				flags.StringVar(&restore.From, "from", "", "`FOLDER` of a backup, or of backups")
				flags.StringArrayVar(&restore.DataDirs, "data", nil,
					"data `FOLDER` for a transition host on this machine, as HOST=FOLDER when the backup has several;\nmay be repeated; without it the images are not restored")
				flags.BoolVar(&restore.ImagesOnly, "images-only", false, "leave the database alone; a host keeps what it has and gets the images back that it lacks")
				flags.StringArrayVar(&restore.Images, "image", nil, "with --images-only: the `IMAGE` to give back, and no other; may be repeated")
				flags.BoolVar(&restore.VerifyOnly, "verify", false, "only read the backup and compare it with its checksums")
			},
			Command: func(ctx context.Context, _, stderr io.Writer, _ *zap.Logger) error {
				return app.Restore(ctx, *restore, stderr)
			},
		},
		{
			Name: "drover-server events replay", Usage: replayUsage, Check: replay.Check,
			Define: func(flags *pflag.FlagSet) {
				app.RecordFlags(flags, &replay.Connections)
				flags.StringVar(&replay.NATSURL, "nats-url", replay.NATSURL, "`URL` of NATS with JetStream (NATS_URL)")
				flags.StringVar(&replay.From, "from", "",
					"where to begin: beginning, a `SEQUENCE` that events had in the stream, a time such as\n2026-05-01T12:00:00Z, or how long ago, such as 36h")
				flags.BoolVar(&replay.NewStream, "new-stream", false, "delete the stream first, with its consumers, and make it anew with the settings it has")
			},
			Command: func(ctx context.Context, _, stderr io.Writer, log *zap.Logger) error {
				return app.Replay(ctx, *replay, stderr, log)
			},
		},
	}
}
