package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"
)

// serverProgram is what does the commands that work on the center's database: the command line knows the contract only.
const serverProgram = "drover-server"

// replayCommand is `drover-server events replay` under the name where it is looked for.
func (c *cli) replayCommand() *cobra.Command {
	var from string
	var newStream bool
	replay := &cobra.Command{
		Use:   "replay --from beginning|SEQUENCE|TIME|DURATION [--new-stream]",
		Short: "Publish the events of the center's database again that the stream has lost",
		Long: `Publish the events of the center's database again that the stream lacks: each once, those of a resource in order.
Doing it again adds nothing, and the center may run meanwhile.

It works on the center's database, DATABASE_URL with DROVER_SECRET_KEY_FILE, and on NATS_URL: it runs "drover-server events
replay", which must be beside this program or on the PATH.`,
		Example: `  drover events replay --from beginning
  drover events replay --from 2026-05-01T12:00:00Z
  drover events replay --from beginning --new-stream`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" {
				return usagef("--from is missing")
			}
			args := []string{"events", "replay", "--from", from}
			if newStream {
				args = append(args, "--new-stream")
			}
			return c.runServer(cmd.Context(), args)
		},
	}
	flags := replay.Flags()
	flags.SortFlags = false
	flags.StringVar(&from, "from", "", "`WHERE` to begin: beginning, a sequence that events had in the stream, a time such as 2026-05-01T12:00:00Z, or how long ago, such as 36h")
	flags.BoolVar(&newStream, "new-stream", false, "delete the stream first, with its consumers, and make it anew with the settings it has")
	return replay
}

// runServer runs drover-server with this program's output, and takes over how it ends.
func (c *cli) runServer(ctx context.Context, args []string) error {
	program, err := findServer()
	if err != nil {
		return err
	}
	command := exec.CommandContext(ctx, program, args...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, c.out, c.errOut
	err = command.Run()
	var failure *exec.ExitError
	if errors.As(err, &failure) && failure.Exited() {
		return serverError{failure.ExitCode()}
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	return nil
}

// findServer looks beside this program, then on the PATH.
func findServer() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), serverProgram)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	program, err := exec.LookPath(serverProgram)
	if err != nil {
		return "", fmt.Errorf("%s is neither beside this program nor on the PATH: run this where the center is installed: %w", serverProgram, err)
	}
	return program, nil
}

// serverError says that another program has told what went wrong.
type serverError struct{ code int }

// Error implements error.
func (e serverError) Error() string {
	return fmt.Sprintf("%s ended with exit code %d", serverProgram, e.code)
}
