package main

import (
	"errors"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fanfare-dev/fanfare/internal/history"
	"github.com/fanfare-dev/fanfare/internal/setting"
)

// The schemes of --history.
const (
	sqliteScheme   = "sqlite:"
	postgresScheme = "postgres://"
)

// historyConfig says where the history is, and how long it is kept.
type historyConfig struct {
	url                                        string
	payloads, attempts, deliveries, statistics spanFlag
}

func (c *historyConfig) register(flags *pflag.FlagSet) {
	flags.StringVar(&c.url, "history", "", "where the history is: sqlite:PATH or postgres://… (default SQLite in --data-dir)")
	setting.HideUser(flags, "history")
	flags.Var(&c.payloads, "keep-payloads", "how long the history keeps the data of events (default 14d)")
	flags.Var(&c.attempts, "keep-attempts", "how long it keeps attempts (default 30d)")
	flags.Var(&c.deliveries, "keep-deliveries", "how long it keeps events and deliveries (default 30d)")
	flags.Var(&c.statistics, "keep-statistics", "how long it keeps statistics (default 365d)")
}

// validate checks the form of the URL, "" being the default, and the times.
func (c *historyConfig) validate() error {
	path, sqlite := strings.CutPrefix(c.url, sqliteScheme)
	if known := c.url == "" || sqlite && path != "" || strings.HasPrefix(c.url, postgresScheme); !known {
		return setting.Wrong("history", "is neither sqlite:PATH nor postgres://…")
	}
	err := c.retention().Validate()
	if wrong, ok := errors.AsType[*history.RetentionError](err); ok {
		return setting.Wrong("keep-"+wrong.Field, "%s", wrong.Problem)
	}
	return err
}

// retention returns what the flags say; what they do not say is zero.
func (c *historyConfig) retention() history.Retention {
	return history.Retention{
		Payloads: c.payloads.value.AsDuration(), Attempts: c.attempts.value.AsDuration(),
		Deliveries: c.deliveries.value.AsDuration(), Statistics: c.statistics.value.AsDuration(),
	}
}
