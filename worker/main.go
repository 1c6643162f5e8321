// Command drover-worker hosts task queues: the workflows of the center, a transition host, and the orchestrator.
package main

import (
	"context"
	"os"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/drover/drover/app"
	"github.com/drover/drover/smc"
)

const usage = `Usage: drover-worker --role ROLE[,ROLE] [flags]

Roles:
  center        the workflows of replication jobs and the activities that write the database
  transition    a transition host: receives disks from agents, makes and keeps images
  orchestrator  fleets and migrations through an SMC endpoint, named by the variables DROVER_ENDPOINT, DROVER_REGION,
                ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET

Any number of workers may have the roles center and orchestrator. Each transition host has its own --data and its own address.

Flags (the variable in brackets is read when the flag is not given):
`

func main() { os.Exit(program(os.Getenv).Main(os.Args[1:], os.Stdout, os.Stderr)) }

func program(getenv func(string) string) app.Program {
	config := &app.WorkerConfig{Connections: app.ConnectionsFromEnv(getenv)}
	orchestrator := &config.Orchestrator
	orchestrator.SMC = smc.Config{AccessKeyID: getenv(smc.EnvAccessKeyID), AccessKeySecret: getenv(smc.EnvAccessKeySecret)}
	return app.Program{
		Name: "drover-worker", Usage: usage, Check: config.Check,
		Define: func(flags *pflag.FlagSet) {
			app.ConnectionFlags(flags, &config.Connections)
			flags.StringSliceVar(&config.Roles, "role", nil, "`ROLE`s of this worker: center, transition, orchestrator")
			flags.StringVar(&config.DataDir, "data", "", "`DIR` where the transition host keeps staging and images")
			flags.StringVar(&config.TransitionListen, "transition-listen", "127.0.0.1:7701", "`ADDRESS` where the transition host listens for agents")
			flags.StringVar(&config.TransitionURL, "transition-url", "", "`URL` by which agents reach it (default http://<transition-listen>)")
			flags.StringVar(&orchestrator.SMC.Endpoint, "endpoint", getenv(smc.EnvEndpoint), "`URL` of the endpoint that the orchestrator drives (DROVER_ENDPOINT)")
			flags.StringVar(&orchestrator.SMC.RegionID, "region", getenv(smc.EnvRegion), "`REGION` of that endpoint (DROVER_REGION)")
			flags.StringVar(&orchestrator.AccountID, "account", app.AccountFromEnv(getenv), "`ACCOUNT` in the subjects of the events of migrations and fleets (DROVER_ACCOUNT)")
			flags.BoolVar(&orchestrator.Bridge, "bridge", getenv("DROVER_BRIDGE") != "off", "have events wake migrations; off: they poll (DROVER_BRIDGE=off)")
		},
		Run: func(ctx context.Context, log *zap.Logger) error { return app.RunWorker(ctx, *config, log) },
	}
}
