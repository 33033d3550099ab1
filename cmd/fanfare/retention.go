package main

import (
	"github.com/spf13/cobra"

	"github.com/fanfare-dev/fanfare/internal/history"
)

// retentionFlags say how long the history is kept.
type retentionFlags struct{ payloads, attempts, deliveries, statistics spanFlag }

func (f *retentionFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Var(&f.payloads, "keep-payloads", "how long the history keeps the data of events (default 14d)")
	flags.Var(&f.attempts, "keep-attempts", "how long it keeps attempts (default 30d)")
	flags.Var(&f.deliveries, "keep-deliveries", "how long it keeps events and deliveries (default 30d)")
	flags.Var(&f.statistics, "keep-statistics", "how long it keeps statistics (default 365d)")
}

// retention returns what the flags say; what they do not say is zero.
func (f *retentionFlags) retention() history.Retention {
	return history.Retention{
		Payloads: f.payloads.value.AsDuration(), Attempts: f.attempts.value.AsDuration(),
		Deliveries: f.deliveries.value.AsDuration(), Statistics: f.statistics.value.AsDuration(),
	}
}
