// Command fanfare is the whole of Fanfare in one binary: the processes of a
// cluster, and the client that publishes to it and looks into it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(run())
}

// run executes the command line and returns the process's exit code.
//
// The first SIGINT or SIGTERM cancels the command's context, and the command
// ends in its own time; the second kills the process.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	cmd, err := rootCommand().ExecuteContextC(ctx)
	return report(os.Stderr, cmd.CommandPath(), err)
}
