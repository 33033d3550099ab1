package main

import (
	"fmt"
	"log/slog"
	"net/url"
	"strings"

	"github.com/spf13/pflag"
	"go.opentelemetry.io/otel/metric"

	"github.com/fanfare-dev/fanfare/coordinator/notify"
	"github.com/fanfare-dev/fanfare/internal/setting"
)

// alertConfig says who is told of alerts, beside those who subscribe to them.
type alertConfig struct {
	log           bool
	alertmanagers []string
	slack         string
	link          string
}

func (c *alertConfig) register(flags *pflag.FlagSet) {
	flags.BoolVar(&c.log, "alert-log", true, "write alerts to the log")
	flags.StringSliceVar(&c.alertmanagers, "alert-alertmanager-urls", nil,
		"Alertmanagers to tell of alerts, as in http://alertmanager:9093; of a cluster of them, all")
	flags.StringVar(&c.slack, "alert-slack-url", "", "incoming webhook of Slack, or of a chat that takes the same, to post alerts to")
	flags.StringVar(&c.link, "alert-link-url", "", "what links to alerts begin with, as in https://fanfare.example.com/v1 (default no links)")
	setting.Hide(flags, "alert-slack-url")
	setting.HideUser(flags, "alert-alertmanager-urls")
}

func (c *alertConfig) validate() error {
	for _, text := range c.alertmanagers {
		if !isWebURL(text) {
			return setting.Wrong("alert-alertmanager-urls", "has something that is not an http:// or https:// URL")
		}
	}
	for _, one := range []struct{ name, value string }{{"alert-slack-url", c.slack}, {"alert-link-url", c.link}} {
		if one.value != "" && !isWebURL(one.value) {
			return setting.Wrong(one.name, "is not an http:// or https:// URL")
		}
	}
	return nil
}

func isWebURL(text string) bool {
	parsed, err := url.Parse(text)
	return err == nil && parsed.Host != "" && (parsed.Scheme == "http" || parsed.Scheme == "https") && !strings.ContainsAny(text, " \n")
}

// listeners returns who is told.
func (c *alertConfig) listeners(logger *slog.Logger, meter metric.Meter) ([]notify.Listener, error) {
	config := notify.Config{Logger: logger, Meter: meter}
	var all []notify.Listener
	if c.log {
		all = append(all, notify.Log{Logger: logger})
	}
	client := notify.NewClient()
	for _, at := range c.alertmanagers {
		listener, err := notify.NewAlertmanager(at, client, config)
		if err != nil {
			return nil, fmt.Errorf("setting up Alertmanager: %w", err)
		}
		all = append(all, listener)
	}
	if c.slack != "" {
		listener, err := notify.NewQueue(&notify.Slack{URL: c.slack, Client: client}, config)
		if err != nil {
			return nil, fmt.Errorf("setting up Slack: %w", err)
		}
		all = append(all, listener)
	}
	return all, nil
}
