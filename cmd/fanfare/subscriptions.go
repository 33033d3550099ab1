package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const subscriptionsLong = `A subscription is an endpoint: its URL, which events it wants, and how it
wants them sent. An ID is the last part of its name (sub_…) or the whole name
(tenants/TENANT/subscriptions/sub_…).`

func subscriptionsCommand(s *settings) *cobra.Command {
	cmd := newGroup("subscriptions", "Manage the endpoints that want events", subscriptionsLong,
		createSubscriptionCommand(s),
		getSubscriptionCommand(s),
		listSubscriptionsCommand(s),
		updateSubscriptionCommand(s),
		pauseSubscriptionCommand(s),
		resumeSubscriptionCommand(s),
		statsCommand(s),
		deleteSubscriptionCommand(s),
		testSubscriptionCommand(s),
		rotateSecretCommand(s),
		signingKeysCommand(s),
	)
	cmd.Aliases = []string{"subscription", "subs"}
	return cmd
}

// subscriptionFlags are the fields that users set. Each flag stands for the
// field that subscriptionField names.
type subscriptionFlags struct {
	url, description, payloadMode, secret, ordering string
	eventTypes                                      []string
	schedule                                        spansFlag
	timeout                                         spanFlag
	rate                                            float64
	burst                                           uint32
	batchCount, batchBytes                          uint32
	batchWait                                       spanFlag
	signing                                         signingFlags
	meeting                                         meetingFlags
}

func (f *subscriptionFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.url, "url", "", "where events are POSTed")
	flags.StringSliceVar(&f.eventTypes, "event-types", nil,
		"patterns of the types wanted, as in order.created,invoice.*,user.** (default all)")
	flags.StringVar(&f.description, "description", "", "for people")
	flags.StringVar(&f.payloadMode, "payload-mode", "",
		"standard, cloudevents-binary, cloudevents-structured or raw (default standard)")
	flags.Var(&f.schedule, "retry-schedule",
		"the waits before the 2nd, 3rd, … attempt, as in 5s,5m,2h (default the cluster's)")
	flags.Var(&f.timeout, "timeout-per-attempt", "how long one attempt may take (default 15s)")
	flags.StringVar(&f.secret, "secret", "", "signing secret, whsec_… (one is made if not given)")
	flags.StringVar(&f.ordering, "ordering", "",
		"none, key (events of equal ordering key one after the other) or subscription (all of them) (default none)")
	flags.Float64Var(&f.rate, "rate", 0, "events a second that are sent at most (0 for no limit)")
	flags.Uint32Var(&f.burst, "burst", 0, "events that may be sent at once after less than the rate (default a tenth of a second's)")
	flags.Uint32Var(&f.batchCount, "batch-count", 0, "events that are sent together at most, 1 to 1000 (0 to send each alone)")
	flags.Uint32Var(&f.batchBytes, "batch-bytes", 0, "bytes of a batch (default 1 MiB)")
	flags.Var(&f.batchWait, "batch-wait", "how long the first event of a batch waits for others (default 1s)")
	complete(cmd, "ordering", "none", "key", "subscription")
	f.signing.register(cmd)
	f.meeting.register(cmd)
	complete(cmd, "payload-mode", "standard", "cloudevents-binary", "cloudevents-structured", "raw")
}

// subscriptionField returns the field of Subscription that a flag sets; empty
// for the flags that set none.
func subscriptionField(flag string) string {
	switch flag {
	case "url", "description", "secret", "ordering", "rate", "burst":
		return flag
	case "event-types", "payload-mode", "retry-schedule", "batch-count", "batch-bytes", "batch-wait":
		return strings.ReplaceAll(flag, "-", "_")
	case "timeout-per-attempt":
		return "timeout"
	}
	if isSigningFlag(flag) {
		return "signing"
	}
	return meetingField(flag)
}

func (f *subscriptionFlags) subscription(cmd *cobra.Command) *fanfarev1.Subscription {
	subscription := &fanfarev1.Subscription{
		Url:           f.url,
		EventTypes:    f.eventTypes,
		Description:   f.description,
		PayloadMode:   f.payloadMode,
		RetrySchedule: f.schedule.values,
		Timeout:       f.timeout.value,
		Ordering:      f.ordering,
		Rate:          f.rate,
		Burst:         f.burst,
		BatchCount:    f.batchCount,
		BatchBytes:    f.batchBytes,
		BatchWait:     f.batchWait.value,
		Signing:       f.signing.signing(),
	}
	if cmd.Flags().Changed("secret") {
		subscription.Secret = &f.secret
	}
	f.meeting.fill(subscription)
	return subscription
}

func createSubscriptionCommand(s *settings) *cobra.Command {
	flags := &subscriptionFlags{}
	cmd := &cobra.Command{
		Use:   "create --url URL",
		Short: "Subscribe an endpoint",
		Long: `Subscribe an endpoint. Events published from now on that match its event types
are sent to it. The answer shows the signing secret, which the receiver needs to
verify what it gets; 'fanfare subscriptions get ID --secret' shows it again.

A pattern of event types is an exact type; order.* for one more segment;
order.** for one or more; * alone, or no pattern, for every type.`,
		Example: `  fanfare subscriptions create --url https://example.com/hooks
  fanfare subscriptions create --url https://example.com/hooks --event-types 'order.*,invoice.paid'
  fanfare subscriptions create --url http://127.0.0.1:9400/ --retry-schedule 1s,2s --payload-mode raw`,
		Args: noArgs,
	}
	flags.register(cmd)
	cmd.RunE = s.run(func(ctx context.Context, c *client, _ []string) error {
		if flags.url == "" {
			return usagef("--url is required")
		}
		created, err := c.subscriptions().CreateSubscription(ctx, &fanfarev1.CreateSubscriptionRequest{
			Parent:       c.tenant,
			Subscription: flags.subscription(cmd),
		})
		if err != nil {
			return err
		}
		return c.print(created, views{subscriptionDetails(created), secretHint(created)})
	})
	return cmd
}

func secretHint(s *fanfarev1.Subscription) text {
	return text(fmt.Sprintf("Receivers verify signatures with the secret. To see it again:\n"+
		"  fanfare subscriptions get %s --secret\n", lastPart(s.GetName())))
}

func getSubscriptionCommand(s *settings) *cobra.Command {
	var secret bool
	cmd := &cobra.Command{
		Use:   "get ID",
		Short: "Show one subscription, or its signing secret",
		Long:  "Show one subscription and how its deliveries are doing, or with --secret nothing but its signing secret.",
		Example: `  fanfare subscriptions get sub_1f4
  FANFARE_SECRET=$(fanfare subscriptions get sub_1f4 --secret)`,
		Args:              oneArg("subscription"),
		ValidArgsFunction: s.completeSubscriptions,
	}
	cmd.Flags().BoolVar(&secret, "secret", false, "show the signing secret")
	cmd.RunE = s.run(func(ctx context.Context, c *client, args []string) error {
		name, err := c.resourceName("subscriptions", args[0])
		if err != nil {
			return err
		}
		if secret {
			return printSecret(ctx, c, name)
		}
		got, err := c.subscriptions().GetSubscription(ctx, &fanfarev1.GetSubscriptionRequest{Name: name})
		if err != nil {
			return err
		}
		return c.print(got, subscriptionDetails(got))
	})
	return cmd
}

func printSecret(ctx context.Context, c *client, subscription string) error {
	got, err := c.subscriptions().GetSubscriptionSecret(ctx, &fanfarev1.GetSubscriptionSecretRequest{
		Name: subscription + "/secret",
	})
	if err != nil {
		return err
	}
	return c.print(got, text(got.GetSecret()+"\n"))
}

func listSubscriptionsCommand(s *settings) *cobra.Command {
	var pages paging
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List subscriptions, oldest first",
		Long:  "List the tenant's subscriptions, oldest first.",
		Example: `  fanfare subscriptions list
  fanfare subscriptions list --all -o json`,
		Args: noArgs,
		RunE: s.run(func(ctx context.Context, c *client, _ []string) error {
			return subscriptionListing(c).print(ctx, c, pages)
		}),
	}
	pages.register(cmd)
	return cmd
}

func subscriptionListing(c *client) listing[*fanfarev1.ListSubscriptionsResponse] {
	return listing[*fanfarev1.ListSubscriptionsResponse]{
		fetch: func(ctx context.Context, size int32, token string) (*fanfarev1.ListSubscriptionsResponse, error) {
			return c.subscriptions().ListSubscriptions(ctx, &fanfarev1.ListSubscriptionsRequest{
				Parent: c.tenant, PageSize: size, PageToken: token,
			})
		},
		view: subscriptionTable,
	}
}

func updateSubscriptionCommand(s *settings) *cobra.Command {
	flags := &subscriptionFlags{}
	var keep bool
	cmd := &cobra.Command{
		Use:   "update ID",
		Short: "Change a subscription",
		Long: `Change the fields whose flags are given; the others stay as they are. An empty
value sets a field back to its default.

What is owed already is sent the new way from its next attempt on; new event
types count for events published from now on.

Headers and authentication were given for one host. To move a subscription to
another, give them anew as well, take them away (--header '',
--no-authentication), or say --keep-credentials.`,
		Example: `  fanfare subscriptions update sub_1f4 --url https://example.com/new
  fanfare subscriptions update sub_1f4 --event-types '' --retry-schedule ''`,
		Args:              oneArg("subscription"),
		ValidArgsFunction: s.completeSubscriptions,
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&keep, "keep-credentials", false, "show headers and authentication to the new host, if --url is one")
	cmd.RunE = s.run(func(ctx context.Context, c *client, args []string) error {
		name, err := c.resourceName("subscriptions", args[0])
		if err != nil {
			return err
		}
		mask := changedFields(cmd)
		if len(mask.GetPaths()) == 0 {
			return usagef("nothing to change: give at least one flag, as --url")
		}
		subscription := flags.subscription(cmd)
		subscription.Name = name
		updated, err := c.subscriptions().UpdateSubscription(ctx, &fanfarev1.UpdateSubscriptionRequest{
			Subscription: subscription, UpdateMask: mask, KeepCredentials: keep,
		})
		if err != nil {
			return err
		}
		return c.print(updated, subscriptionDetails(updated))
	})
	return cmd
}

// changedFields names the fields whose flags were given.
func changedFields(cmd *cobra.Command) *fieldmaskpb.FieldMask {
	mask := &fieldmaskpb.FieldMask{}
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		if field := subscriptionField(flag.Name); field != "" && !slices.Contains(mask.GetPaths(), field) {
			mask.Paths = append(mask.Paths, field)
		}
	})
	return mask
}

func pauseSubscriptionCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "pause ID…",
		Short: "Stop sending to subscriptions for a while",
		Long: `Stop sending to subscriptions, one after the other; the first that fails ends
it. What they are owed is kept, and events published meanwhile wait for them in
the log, for as long as its retention lasts. Requests on the wire end as they
end. To pause one that is paused or disabled changes nothing.`,
		Example:           "  fanfare subscriptions pause sub_1f4",
		Args:              someArgs("subscription"),
		ValidArgsFunction: s.completeSubscriptions,
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			return c.each("subscriptions", args, func(name string) error {
				paused, err := c.subscriptions().PauseSubscription(ctx, &fanfarev1.PauseSubscriptionRequest{Name: name})
				if err != nil {
					return fmt.Errorf("pausing %s: %w", lastPart(name), err)
				}
				return c.printLine(paused, stateLine(paused))
			})
		}),
	}
}

func resumeSubscriptionCommand(s *settings) *cobra.Command {
	var fromNow bool
	cmd := &cobra.Command{
		Use:   "resume ID…",
		Short: "Send again to subscriptions that were paused or disabled",
		Long: `Send again to subscriptions that were paused or disabled, one after the other;
the first that fails ends it. They get what waited for them first. With
--from-now that is cancelled instead, and they get only what is published from
now on.

To resume one that is active closes its breaker: it is tried again at once.`,
		Example: `  fanfare subscriptions resume sub_1f4
  fanfare subscriptions resume sub_1f4 sub_1f5 --from-now`,
		Args:              someArgs("subscription"),
		ValidArgsFunction: s.completeSubscriptions,
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			return c.each("subscriptions", args, func(name string) error {
				resumed, err := c.subscriptions().ResumeSubscription(ctx, &fanfarev1.ResumeSubscriptionRequest{
					Name: name, FromNow: fromNow,
				})
				if err != nil {
					return fmt.Errorf("resuming %s: %w", lastPart(name), err)
				}
				return c.printLine(resumed, stateLine(resumed))
			})
		}),
	}
	cmd.Flags().BoolVar(&fromNow, "from-now", false, "cancel what waited, instead of sending it")
	return cmd
}

// stateLine says what a subscription has become, and what waits for it.
func stateLine(s *fanfarev1.Subscription) text {
	line := fmt.Sprintf("%s is %s", lastPart(s.GetName()), subscriptionState(s))
	if n := s.GetHealth().GetOutstandingCount(); n > 0 {
		line += fmt.Sprintf(", %d outstanding", n)
	}
	return text(singleLine(line) + "\n")
}

func deleteSubscriptionCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "delete ID…",
		Short: "Delete subscriptions",
		Long: `Delete subscriptions, one after the other; the first that fails ends it. What
they are still owed is cancelled.`,
		Example:           "  fanfare subscriptions delete sub_1f4 sub_1f5",
		Args:              someArgs("subscription"),
		ValidArgsFunction: s.completeSubscriptions,
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			return c.each("subscriptions", args, func(name string) error {
				done, err := c.subscriptions().DeleteSubscription(ctx, &fanfarev1.DeleteSubscriptionRequest{Name: name})
				if err != nil {
					return fmt.Errorf("deleting %s: %w", lastPart(name), err)
				}
				return c.printLine(done, text("deleted "+lastPart(name)+"\n"))
			})
		}),
	}
}

func subscriptionTable(page *fanfarev1.ListSubscriptionsResponse) table {
	t := table{
		header: []string{"ID", "URL", "EVENT TYPES", "STATE", "OUTSTANDING", "HEALTH", "CREATED"},
		empty:  "No subscriptions.",
	}
	for _, s := range page.GetSubscriptions() {
		t.rows = append(t.rows, []string{
			lastPart(s.GetName()),
			s.GetUrl(),
			eventTypes(s),
			subscriptionState(s),
			number(s.GetHealth().GetOutstandingCount()),
			health(s.GetHealth()),
			moment(s.GetCreateTime()),
		})
	}
	return t
}

func subscriptionDetails(s *fanfarev1.Subscription) details {
	h := s.GetHealth()
	return details{
		{"ID", lastPart(s.GetName())},
		{"Name", s.GetName()},
		{"URL", s.GetUrl()},
		{"Event types", eventTypes(s)},
		{"Description", s.GetDescription()},
		{"Payload mode", s.GetPayloadMode()},
		{"Retry schedule", spans(s.GetRetrySchedule())},
		{"Timeout", span(s.GetTimeout())},
		{"Ordering", s.GetOrdering()},
		{"Rate", rate(s)},
		{"Batch", batching(s)},
		{"Signature", signatureText(s)},
		{"Authentication", authenticationText(s)},
		{"Headers", headersText(s)},
		{"Compression", s.GetCompression()},
		{"Verification", s.GetVerification()},
		{"Handshake", handshakeText(s)},
		{"Secret", s.GetSecret()},
		{"Public keys", publicKeysText(s)},
		{"Created", moment(s.GetCreateTime())},
		{"Updated", moment(s.GetUpdateTime())},
		{"Etag", s.GetEtag()},
		{"State", subscriptionState(s)},
		{"State since", moment(s.GetStateTime())},
		{"Health", health(h)},
		{"Failing since", moment(h.GetFailingSince())},
		{"Outstanding", number(h.GetOutstandingCount())},
	}
}

func eventTypes(s *fanfarev1.Subscription) string {
	if len(s.GetEventTypes()) == 0 {
		return "*"
	}
	return strings.Join(s.GetEventTypes(), ",")
}

// limited is what can have a rate.
type limited interface {
	GetRate() float64
	GetBurst() uint32
}

// rate puts a rate in words; empty if there is none.
func rate(l limited) string {
	if l.GetRate() == 0 {
		return ""
	}
	text := strconv.FormatFloat(l.GetRate(), 'g', -1, 64) + "/s"
	if l.GetBurst() > 0 {
		text += fmt.Sprintf(", %d at once", l.GetBurst())
	}
	return text
}

// batching puts in words how events are sent together; empty if they are not.
func batching(s *fanfarev1.Subscription) string {
	if s.GetBatchCount() == 0 {
		return ""
	}
	text := fmt.Sprintf("up to %d events", s.GetBatchCount())
	if s.GetBatchBytes() > 0 {
		text += fmt.Sprintf(", %d bytes", s.GetBatchBytes())
	}
	if s.GetBatchWait() != nil {
		text += ", after " + span(s.GetBatchWait())
	}
	return text
}

// subscriptionState says whether a subscription is sent to and, if it is not
// because somebody said so, why.
func subscriptionState(s *fanfarev1.Subscription) string {
	if s.GetState() == fanfarev1.Subscription_STATE_UNSPECIFIED {
		return ""
	}
	state, reason := strings.ToLower(s.GetState().String()), s.GetStateReason()
	if reason == "" || reason == state {
		return state
	}
	return state + " (" + reason + ")"
}

// health puts an endpoint's health in words.
func health(h *fanfarev1.SubscriptionHealth) string {
	if h == nil {
		return ""
	}
	state := "ok"
	if n := h.GetConsecutiveFailures(); n > 0 {
		state = fmt.Sprintf("%d failed in a row", n)
	}
	if h.GetBehind() {
		state += ", behind"
	}
	if h.GetBreakerOpen() {
		state += ", probing"
		if next := h.GetNextProbeTime(); next != nil {
			state += ", next at " + moment(next)
		}
	}
	if hold := h.GetHoldTime(); hold != nil {
		state += ", asks to wait until " + moment(hold)
	}
	return state
}

// completeSubscriptionFlag offers the tenant's subscriptions for a flag named
// subscription.
func (s *settings) completeSubscriptionFlag(cmd *cobra.Command) {
	// As in complete: without it the flag works the same.
	_ = cmd.RegisterFlagCompletionFunc("subscription", s.completeSubscriptions)
}

// completeSubscriptions offers the tenant's subscriptions to the shell.
func (s *settings) completeSubscriptions(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	return s.offer(cmd, given, func(ctx context.Context, c *client, size int32) ([]offered, error) {
		page, err := subscriptionListing(c).fetch(ctx, size, "")
		var all []offered
		for _, subscription := range page.GetSubscriptions() {
			all = append(all, offered{subscription.GetName(), subscription.GetUrl()})
		}
		return all, err
	})
}
