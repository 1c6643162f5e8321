// Command drover-worker hosts task queues: the workflows of the center, a transition host, and the orchestrator.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/drover/drover/app"
	"github.com/drover/drover/smc"
)

const usage = `Usage: drover-worker --role ROLE[,ROLE] [flags]

Roles:
  center        the workflows of replication jobs and the activities that write the database
  transition    a transition host: receives disks from agents, makes and keeps images
  orchestrator  fleets and migrations through an SMC endpoint, named as for drover: DROVER_ENDPOINT, DROVER_REGION, DROVER_SIGNATURE,
                and an access key in ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET or in a profile of the
                vendor's CLI (ALIBABA_CLOUD_PROFILE)

Any number of workers may have the roles center and orchestrator. Each transition host has its own --data and its own address.

NATS_USER and NATS_PASSWORD, NATS_CREDS, NATS_CA, NATS_CERT and NATS_KEY say how NATS and this program know each other; TEMPORAL_API_KEY,
TEMPORAL_TLS and the other variables of Temporal's own tools do so for Temporal: docs/security.md.

Flags (the variable in brackets is read when the flag is not given):
`

func main() { os.Exit(program(os.Getenv).Main(os.Args[1:], os.Stdout, os.Stderr)) }

func program(getenv func(string) string) app.Program {
	config := &app.WorkerConfig{Connections: app.ConnectionsFromEnv(getenv), TLS: app.TLSFromEnv(getenv)}
	orchestrator := &config.Orchestrator
	var endpoint, region, caFile string
	return app.Program{
		Name: "drover-worker", Usage: usage,
		Check: func() error {
			if slices.Contains(config.Roles, app.RoleOrchestrator) {
				var err error
				orchestrator.SMC, err = smc.ConfigFromEnv(func(name string) string {
					switch name { // the flags, which have the variables for default
					case smc.EnvEndpoint:
						return endpoint
					case smc.EnvRegion:
						return region
					case smc.EnvCAFile:
						return caFile
					}
					return getenv(name)
				})
				if err != nil {
					return fmt.Errorf("the role orchestrator drives an endpoint: %w", err)
				}
			}
			return config.Check()
		},
		Define: func(flags *pflag.FlagSet) {
			app.ConnectionFlags(flags, &config.Connections)
			flags.StringSliceVar(&config.Roles, "role", nil, "`ROLE`s of this worker: center, transition, orchestrator")
			flags.StringVar(&config.DataDir, "data", "", "`DIR` where the transition host keeps staging and images")
			flags.StringVar(&config.TransitionListen, "transition-listen", "127.0.0.1:7701", "`ADDRESS` where the transition host listens for agents")
			flags.StringVar(&config.TransitionURL, "transition-url", "", "`URL` by which agents reach it (default http://<transition-listen>, or https:// with TLS)")
			flags.StringVar(&config.TransitionPrivateURL, "transition-private-url", "", "`URL` by which the agents of jobs with NetMode 2 reach it (default: as all others do)")
			app.TLSFlags(flags, &config.TLS)
			flags.DurationVar(&config.SourceWait, "source-wait", app.SourceWaitFromEnv(getenv), "how long a run waits on the transition host for a source that is silent, a `DURATION` (DROVER_SOURCE_WAIT)")
			flags.DurationVar(&config.TargetWait, "target-wait", app.TargetWaitFromEnv(getenv), "how long a run waits on the transition host for a target instance that is silent, a `DURATION` (DROVER_TARGET_WAIT)")
			flags.DurationVar(&config.OrphanGrace, "orphan-grace", app.OrphanGraceFromEnv(getenv), "how long the transition host leaves what belongs to no job and no image, a `DURATION` (DROVER_ORPHAN_GRACE)")
			flags.StringVar(&endpoint, "endpoint", getenv(smc.EnvEndpoint), "`URL` of the endpoint that the orchestrator drives (DROVER_ENDPOINT)")
			flags.StringVar(&region, "region", getenv(smc.EnvRegion), "`REGION` of that endpoint (DROVER_REGION)")
			flags.StringVar(&caFile, "ca-file", getenv(smc.EnvCAFile), "PEM `FILE` of the authority of that endpoint's certificate, where this machine does not know it (DROVER_CA_FILE)")
			flags.StringVar(&orchestrator.AccountID, "account", app.AccountFromEnv(getenv), "`ACCOUNT` in the subjects of the events of migrations and fleets (DROVER_ACCOUNT)")
			flags.BoolVar(&orchestrator.Bridge, "bridge", getenv("DROVER_BRIDGE") != "off", "have events wake migrations; off: they poll (DROVER_BRIDGE=off)")
		},
		Metrics: config.DefaultMetrics, Getenv: getenv,
		MetricsWhere: app.DefaultCenterMetrics + " for the role center, else\n" + app.DefaultTransitionMetrics + " for transition, else " + app.DefaultOrchestratorMetrics,
		Run: func(ctx context.Context, process app.Process, log *zap.Logger) error {
			config.Process = process
			return app.RunWorker(ctx, *config, log)
		},
	}
}
