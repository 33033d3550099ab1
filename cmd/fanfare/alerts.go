package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const alertsLong = `Alerts say what needs somebody's attention: an endpoint that fails or was
disabled, deliveries that were given up, a backlog, events about to expire,
certificates about to end. What is wrong with the cluster itself is in the tenant
fanfare-system. docs/alerts.md lists all kinds with their defaults.

Each alert is also published as an event of the tenant fanfare-system: subscribe
to it there (subscriptions create --tenant fanfare-system).`

func alertsCommand(s *settings) *cobra.Command {
	cmd := newGroup("alerts", "Show what needs attention, and decide what does", alertsLong,
		listAlertsCommand(s),
		getAlertCommand(s),
		watchAlertsCommand(s),
		newGroup("rules", "Decide when alerts fire", rulesLong,
			listRulesCommand(s),
			setRuleCommand(s),
			resetRuleCommand(s),
		),
	)
	cmd.Aliases = []string{"alert"}
	return cmd
}

func (c *client) alerts() fanfarev1.AlertServiceClient {
	return fanfarev1.NewAlertServiceClient(c.conn)
}

func listAlertsCommand(s *settings) *cobra.Command {
	var pages paging
	var all bool
	request := &fanfarev1.ListAlertsRequest{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List alerts that fire",
		Long:  "List a tenant's alerts that fire; with --resolved also those that were resolved within the last day.",
		Example: `  fanfare alerts list
  fanfare alerts list --tenant fanfare-system --resolved`,
		Args: noArgs,
		RunE: s.run(func(ctx context.Context, c *client, _ []string) error {
			alerts := listing[*fanfarev1.ListAlertsResponse]{view: alertTable}
			alerts.fetch = func(ctx context.Context, size int32, token string) (*fanfarev1.ListAlertsResponse, error) {
				request.Parent, request.PageSize, request.PageToken = c.tenant, size, token
				if !all {
					request.State = fanfarev1.Alert_FIRING
				}
				return c.alerts().ListAlerts(ctx, request)
			}
			return alerts.print(ctx, c, pages)
		}),
	}
	cmd.Flags().BoolVar(&all, "resolved", false, "also those that were resolved within the last day")
	cmd.Flags().StringVar(&request.Subscription, "subscription", "", "only this subscription's")
	cmd.Flags().StringVar(&request.Kind, "kind", "", "only of this kind, as endpoint_failing")
	s.completeSubscriptionFlag(cmd)
	pages.register(cmd)
	return cmd
}

func getAlertCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:     "get ID",
		Short:   "Show one alert",
		Long:    "Show one alert.",
		Example: "  fanfare alerts get alr_0123456789abcdef01234567",
		Args:    oneArg("alert"),
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			name, err := c.resourceName("alerts", args[0])
			if err != nil {
				return err
			}
			got, err := c.alerts().GetAlert(ctx, &fanfarev1.GetAlertRequest{Name: name})
			if err != nil {
				return err
			}
			return c.print(got, alertDetails(got))
		}),
	}
}

func watchAlertsCommand(s *settings) *cobra.Command {
	var subscription string
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Watch alerts as they fire and are resolved",
		Long: `Show alerts as they fire, are said again, and are resolved: time, state,
severity, kind, what it is about, and what is wrong. With -o json each line is an
object.

When the server goes away, watch says so and connects again; what happened
meanwhile is not shown ('fanfare alerts list' has it). Ctrl-C ends it.`,
		Example: `  fanfare alerts watch
  fanfare alerts watch --tenant fanfare-system -o json`,
		Args: noArgs,
		RunE: s.run(func(ctx context.Context, c *client, _ []string) error {
			request := &fanfarev1.WatchAlertsRequest{Parent: c.tenant, Subscription: subscription}
			return c.keepWatching(ctx, func(ctx context.Context) (bool, error) { return watchAlerts(ctx, c, request) })
		}),
	}
	cmd.Flags().StringVar(&subscription, "subscription", "", "only this subscription's")
	s.completeSubscriptionFlag(cmd)
	return cmd
}

// watchAlerts prints what one stream brings. It reports whether the stream was
// opened, and why it ended: never nil.
func watchAlerts(ctx context.Context, c *client, request *fanfarev1.WatchAlertsRequest) (opened bool, err error) {
	stream, err := c.alerts().WatchAlerts(ctx, request)
	if err != nil {
		return false, err
	}
	for {
		change, err := stream.Recv()
		if err != nil {
			return true, streamEnd(err)
		}
		if err := c.printLine(change, text(alertLine(change.GetAlert()))); err != nil {
			return true, err
		}
	}
}

// alertLine puts an alert in one line.
func alertLine(a *fanfarev1.Alert) string {
	at, mark := a.GetNotifyTime(), "✗"
	if at == nil {
		at = timestamppb.Now()
	}
	if a.GetState() == fanfarev1.Alert_RESOLVED {
		at, mark = a.GetEndTime(), "✓"
	}
	return singleLine(strings.Join([]string{
		at.AsTime().Local().Format("15:04:05"), mark, fmt.Sprintf("%-8s", alertState(a)), fmt.Sprintf("%-8s", a.GetSeverity()),
		a.GetKind(), lastPart(a.GetSubscription()) + a.GetObject(), a.GetSummary(),
	}, "  ")) + "\n"
}

func alertState(a *fanfarev1.Alert) string { return strings.ToLower(a.GetState().String()) }

func alertTable(page *fanfarev1.ListAlertsResponse) table {
	t := table{header: []string{"ID", "STATE", "SEVERITY", "KIND", "ABOUT", "SINCE", "SUMMARY"}, empty: "No alerts."}
	for _, a := range page.GetAlerts() {
		t.rows = append(t.rows, []string{
			lastPart(a.GetName()), alertState(a), a.GetSeverity(), a.GetKind(),
			lastPart(a.GetSubscription()) + a.GetObject(), moment(a.GetStartTime()), shorten(a.GetSummary(), shortSummary),
		})
	}
	return t
}

// shortSummary is how many characters of a summary a table shows.
const shortSummary = 70

func alertDetails(a *fanfarev1.Alert) details {
	return details{
		{"ID", lastPart(a.GetName())},
		{"Name", a.GetName()},
		{"Kind", a.GetKind()},
		{"State", alertState(a)},
		{"Severity", a.GetSeverity()},
		{"Subscription", a.GetSubscription()},
		{"Object", a.GetObject()},
		{"Summary", a.GetSummary()},
		{"Endpoint", a.GetUrl()},
		{"Since", moment(a.GetStartTime())},
		{"Resolved", moment(a.GetEndTime())},
		{"Told", moment(a.GetNotifyTime())},
		{"Event", a.GetEvent()},
		{"Trace", a.GetTraceId()},
		{"Last status", unlessZero(a.GetLastStatusCode())},
		{"Last error", strings.TrimSpace(a.GetLastErrorClass() + " " + a.GetLastError())},
		{"Link", a.GetLink()},
	}
}

const rulesLong = `There is a rule for each kind of alert, with a default. A tenant may change it for
all its subscriptions, and for a single one (--subscription). The rules of what
concerns the cluster are those of the tenant fanfare-system.`

func listRulesCommand(s *settings) *cobra.Command {
	var subscription string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the rules in force",
		Long:  "List the rules of all kinds as they are in force for the tenant, or for a subscription.",
		Example: `  fanfare alerts rules list
  fanfare alerts rules list --subscription sub_1f4
  fanfare alerts rules list --tenant fanfare-system`,
		Args: noArgs,
		RunE: s.run(func(ctx context.Context, c *client, _ []string) error {
			parent, err := c.ruleParent(subscription)
			if err != nil {
				return err
			}
			listed, err := c.alerts().ListAlertRules(ctx, &fanfarev1.ListAlertRulesRequest{Parent: parent})
			if err != nil {
				return err
			}
			return c.print(listed, ruleTable(listed.GetAlertRules()))
		}),
	}
	cmd.Flags().StringVar(&subscription, "subscription", "", "as they are in force for this one")
	s.completeSubscriptionFlag(cmd)
	return cmd
}

// ruleParent returns whose rules are meant: the tenant's, or a subscription's.
func (c *client) ruleParent(subscription string) (string, error) {
	if subscription == "" {
		return c.tenant, nil
	}
	return c.resourceName("subscriptions", subscription)
}

func ruleTable(rules []*fanfarev1.AlertRule) table {
	t := table{header: []string{"KIND", "SEVERITY", "THRESHOLD", "PERIOD", "FOR", "REPEAT", "STATE", "CHANGED"}}
	for _, rule := range rules {
		threshold := ""
		if rule.GetThreshold() != 0 {
			threshold = strconv.FormatFloat(rule.GetThreshold(), 'g', -1, 64)
		}
		state := "on"
		switch {
		case rule.GetDisabled():
			state = "off"
		case rule.GetMuteTime() != nil && rule.GetMuteTime().AsTime().After(time.Now()):
			state = "muted until " + moment(rule.GetMuteTime())
		}
		t.rows = append(t.rows, []string{
			lastPart(rule.GetName()), rule.GetSeverity(), threshold, span(rule.GetPeriod()), span(rule.GetForDuration()),
			span(rule.GetRepeatInterval()), state, cmp.Or(rule.GetOrigin(), "no"),
		})
	}
	return t
}

// ruleFlags are the fields of a rule that users set.
type ruleFlags struct {
	severity            string
	threshold           float64
	period, wait, again spanFlag
	off                 bool
	mute                spanFlag
}

func setRuleCommand(s *settings) *cobra.Command {
	var subscription string
	flags := &ruleFlags{}
	cmd := &cobra.Command{
		Use:   "set KIND",
		Short: "Change the rule of a kind of alert",
		Long: `Change what the flags say of the rule of a kind; the rest stays as it is in
force. An empty value, or 0, sets it back to the default.`,
		Example: `  fanfare alerts rules set failure_ratio --threshold 0.1 --period 30m
  fanfare alerts rules set endpoint_failing --for 1m --severity critical --subscription sub_1f4
  fanfare alerts rules set backlog_age --disabled
  fanfare alerts rules set delivery_dead --mute 8h`,
		Args: oneArg("kind of alert"),
	}
	names := map[string]string{
		"severity": "severity", "threshold": "threshold", "period": "period", "for": "for_duration",
		"repeat": "repeat_interval", "disabled": "disabled", "mute": "mute_time",
	}
	f := cmd.Flags()
	f.StringVar(&flags.severity, "severity", "", "info, warning or critical")
	f.Float64Var(&flags.threshold, "threshold", 0, "the number from which on it fires")
	f.Var(&flags.period, "period", "over which is counted, how old, or how long before, by kind")
	f.Var(&flags.wait, "for", "for how long it must be so before it fires")
	f.Var(&flags.again, "repeat", "how often it is said again")
	f.BoolVar(&flags.off, "disabled", false, "alerts of this kind do not fire")
	f.Var(&flags.mute, "mute", "for how long from now nobody is told")
	f.StringVar(&subscription, "subscription", "", "for this one only")
	s.completeSubscriptionFlag(cmd)
	cmd.RunE = s.run(func(ctx context.Context, c *client, args []string) error {
		parent, err := c.ruleParent(subscription)
		if err != nil {
			return err
		}
		request := &fanfarev1.UpdateAlertRuleRequest{
			AlertRule: &fanfarev1.AlertRule{
				Name: parent + "/alertRules/" + args[0], Severity: flags.severity, Threshold: flags.threshold,
				Period: flags.period.value, ForDuration: flags.wait.value, RepeatInterval: flags.again.value, Disabled: flags.off,
			},
			UpdateMask: &fieldmaskpb.FieldMask{},
		}
		if span := flags.mute.value.AsDuration(); span > 0 {
			request.AlertRule.MuteTime = timestamppb.New(time.Now().Add(span))
		}
		for _, name := range []string{"severity", "threshold", "period", "for", "repeat", "disabled", "mute"} {
			if cmd.Flags().Changed(name) {
				request.UpdateMask.Paths = append(request.UpdateMask.Paths, names[name])
			}
		}
		if len(request.GetUpdateMask().GetPaths()) == 0 {
			return usagef("nothing to change: give at least one flag, as --threshold")
		}
		updated, err := c.alerts().UpdateAlertRule(ctx, request)
		if err != nil {
			return err
		}
		return c.print(updated, ruleTable([]*fanfarev1.AlertRule{updated}))
	})
	return cmd
}

func resetRuleCommand(s *settings) *cobra.Command {
	var subscription string
	cmd := &cobra.Command{
		Use:   "reset KIND",
		Short: "Take back what was changed of a rule",
		Long:  "Take back what was changed of a rule: a subscription has its tenant's again, and a tenant the default.",
		Example: `  fanfare alerts rules reset failure_ratio
  fanfare alerts rules reset endpoint_failing --subscription sub_1f4`,
		Args: oneArg("kind of alert"),
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			parent, err := c.ruleParent(subscription)
			if err != nil {
				return err
			}
			name := parent + "/alertRules/" + args[0]
			if _, err := c.alerts().DeleteAlertRule(ctx, &fanfarev1.DeleteAlertRuleRequest{Name: name}); err != nil {
				return err
			}
			rule, err := c.alerts().GetAlertRule(ctx, &fanfarev1.GetAlertRuleRequest{Name: name})
			if err != nil {
				return err
			}
			return c.print(rule, ruleTable([]*fanfarev1.AlertRule{rule}))
		}),
	}
	cmd.Flags().StringVar(&subscription, "subscription", "", "of this one")
	s.completeSubscriptionFlag(cmd)
	return cmd
}
