// Command drover-worker hosts task queues: the workflows of the center, and a transition host.
package main

import (
	"context"
	"os"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/drover/drover/app"
)

const usage = `Usage: drover-worker --role ROLE[,ROLE] [flags]

Roles:
  center      the workflows of replication jobs and the activities that write the database
  transition  a transition host: receives disks from agents, makes and keeps images

Any number of workers may have the role center. Each transition host has its own --data and its own address.

Flags (the variable in brackets is read when the flag is not given):
`

func main() {
	config := app.WorkerConfig{Connections: app.ConnectionsFromEnv(os.Getenv)}
	os.Exit(app.Main("drover-worker", usage, func(flags *pflag.FlagSet) {
		app.ConnectionFlags(flags, &config.Connections)
		flags.StringSliceVar(&config.Roles, "role", nil, "`ROLE`s of this worker: center, transition")
		flags.StringVar(&config.DataDir, "data", "", "`DIR` where the transition host keeps staging and images")
		flags.StringVar(&config.TransitionListen, "transition-listen", "127.0.0.1:7701", "`ADDRESS` where the transition host listens for agents")
		flags.StringVar(&config.TransitionURL, "transition-url", "", "`URL` by which agents reach it (default http://<transition-listen>)")
	}, func(ctx context.Context, log *zap.Logger) error { return app.RunWorker(ctx, config, log) }, func() error { return config.Check() }))
}
