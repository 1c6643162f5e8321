package main

import "github.com/spf13/cobra"

// doctorCommand is `drover-server doctor` under the name where it is looked for.
func (c *cli) doctorCommand() *cobra.Command {
	var fix bool
	var remove []string
	doctor := &cobra.Command{
		Use:   "doctor [--fix] [--remove NAME]...",
		Short: "Look over a center and list what is wrong, with what to do next",
		Long: `Look over a center of your own and list what is wrong, each with what it means and what to do next.

It reads the database, NATS and Temporal, and what processes, transition hosts and agents report into the database; it says which of them
it could not look at. Without --fix and --remove it writes nothing. docs/operations.md, Doctor, lists all it looks for.

It works with the environment of drover-server: DATABASE_URL with DROVER_SECRET_KEY_FILE, NATS_URL, TEMPORAL_ADDRESS, and their credentials. It
runs "drover-server doctor", which must be beside this program or on the PATH, and has further flags.

Exit codes: 0 nothing is wrong, 1 something is, 2 a part could not be looked at.`,
		Example: `  . data/dev.env
  drover doctor
  drover doctor -o json | jq '.findings[].kind'
  drover doctor --fix`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			args := []string{"doctor", "--output", string(c.output)}
			if fix {
				args = append(args, "--fix")
			}
			for _, name := range remove {
				args = append(args, "--remove", name)
			}
			return c.runServer(cmd.Context(), args)
		},
	}
	flags := doctor.Flags()
	flags.SortFlags = false
	flags.BoolVar(&fix, "fix", false, "mend what can be mended without risk: start missing entities, release sessions and room of no run")
	flags.StringArrayVar(&remove, "remove", nil, "`NAME` of what orphan-unknown or image-lost lists: its host removes it at its next look; may be repeated")
	return doctor
}
