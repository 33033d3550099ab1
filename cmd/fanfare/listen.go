package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/internal/version"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/worker"
)

// listenOverlap is how far before the last delivery listen looks for those it
// has missed: the times of deliveries are only about in order.
const listenOverlap = time.Minute

const listenLong = `Forward the deliveries of a subscription to a URL that only this machine reaches,
as that of a program under development. Each request has the body, the headers
and the signature that the subscription's own endpoint is sent, which goes on
being sent to. The request and the answer are shown; nothing that the URL answers
has any effect on the delivery.

A delivery is forwarded when it begins to be owed, from now on or --since; once,
however often it is attempted, and once more when it is retried or replayed. When
the server goes away, listen connects again and forwards what it has missed. What
is owed to a subscription while it is paused or disabled begins to be owed, and is
forwarded, when it is resumed.

--resend forwards deliveries again, by their own id or that of their event, and
ends. It fails if the URL does.

The signature is of the time of forwarding, as it is of each attempt. A batched
subscription's events come in batches of one. Headers and passwords that are kept
for the endpoint are not known here: --header gives those that the program needs.`

// listenOptions are the flags of fanfare listen.
type listenOptions struct {
	resend  []string
	since   timeFlag
	wait    time.Duration
	headers []string
	brief   bool
}

// listenCommand returns the command that forwards deliveries to a developer.
func listenCommand(s *settings) *cobra.Command {
	var options listenOptions
	cmd := &cobra.Command{
		Use:   "listen SUBSCRIPTION URL",
		Short: "Forward a subscription's deliveries to a URL on this machine",
		Long:  listenLong,
		Example: `  fanfare listen sub_1f4 http://localhost:3000/webhooks
  fanfare listen sub_1f4 http://localhost:3000/webhooks --since 1h --brief
  fanfare listen sub_1f4 http://localhost:3000/webhooks --resend dlv_0-2s-0-1f4
  fanfare listen sub_1f4 http://localhost:3000/webhooks -o json | jq .exchange.statusCode`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("takes a subscription and a URL, got %d arguments", len(args))
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, given []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(given) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return s.completeSubscriptions(cmd, given, typed)
		},
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			l, err := options.listener(c, args[0], args[1])
			if err != nil {
				return err
			}
			defer l.http.CloseIdleConnections()
			if len(options.resend) > 0 {
				return l.resendAll(ctx, options.resend)
			}
			return l.run(ctx)
		}),
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&options.resend, "resend", nil, "forward this `delivery` again, or that of this event, and end (may be repeated)")
	flags.Var(&options.since, "since", "begin with what began to be owed at this time, or this long ago (default now)")
	flags.DurationVar(&options.wait, "wait", 0, "how long an answer may take, as at a breakpoint (default the subscription's timeout)")
	flags.StringArrayVarP(&options.headers, "header", "H", nil, "`header` to add, as 'name: value' (may be repeated)")
	flags.BoolVar(&options.brief, "brief", false, "show one line of each request, without headers and bodies")
	return cmd
}

// listener returns what the flags and arguments ask for.
func (o *listenOptions) listener(c *client, subscription, to string) (*listener, error) {
	name, err := c.resourceName("subscriptions", subscription)
	if err != nil {
		return nil, err
	}
	parsed, err := url.Parse(to)
	if err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" {
		return nil, usagef("%q is not a URL to forward to: want one such as http://localhost:3000/webhooks", to)
	}
	if o.wait < 0 {
		return nil, usagef("--wait is negative")
	}
	if len(o.resend) > 0 && o.since.value != nil {
		return nil, usagef("--resend and --since exclude each other")
	}
	l := &listener{
		client: c, subscription: name, url: to, wait: o.wait, brief: o.brief,
		headers: make(map[string]string), seen: make(map[obligation]bool),
		http: newForwarder(),
	}
	for _, line := range o.headers {
		name, value, found := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); !found || name == "" {
			return nil, usagef("--header is %q; want 'name: value'", line)
		}
		l.headers[name] = strings.TrimSpace(value)
	}
	if o.since.value != nil {
		l.from, l.begun = o.since.value.AsTime(), true
	}
	l.tester = worker.NewTester(l.http, version.String())
	return l, nil
}

// newForwarder returns a client that sends as a worker does: redirects are
// answers, and nothing is added to a request.
func newForwarder() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableCompression: true, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// listener forwards the deliveries of one subscription.
type listener struct {
	client       *client
	subscription string // resource name
	url          string
	headers      map[string]string
	wait         time.Duration // 0: the subscription's
	brief        bool
	http         *http.Client
	tester       *worker.Tester

	begun bool // from is known
	from  time.Time
	// seen holds what began to be owed since from and needs no forwarding. What
	// began before never does.
	seen map[obligation]bool
	kept int // of seen, when it was last cut back
}

// obligation is a delivery from when it began to be owed. The retry of one that
// has ended is another.
type obligation struct {
	delivery string
	since    time.Time
}

func obligationOf(d *fanfarev1.Delivery) obligation {
	return obligation{d.GetName(), d.GetCreateTime().AsTime()}
}

// run forwards until ctx ends, which is no error.
func (l *listener) run(ctx context.Context) error {
	if !l.begun {
		if err := l.begin(ctx); err != nil {
			if ended(ctx) {
				return nil
			}
			return err
		}
	}
	return l.client.keepWatching(ctx, l.watch)
}

// begin notes what there is already. It goes by the server's clock: that of
// this machine may be wrong.
func (l *listener) begin(ctx context.Context) error {
	if _, err := l.endpoint(ctx); err != nil {
		return err // say what is wrong at once, not at the first delivery
	}
	page, err := l.list(ctx, &fanfarev1.ListDeliveriesRequest{PageSize: 1})
	if err != nil {
		return err
	}
	for _, newest := range page.GetDeliveries() {
		l.from = newest.GetCreateTime().AsTime().Add(-listenOverlap)
	}
	known, err := l.listNew(ctx)
	for _, d := range known {
		l.note(d)
	}
	return err
}

// watch forwards what one stream brings, and before that what none has brought.
// It reports whether the stream was opened, and why it ended: never nil.
func (l *listener) watch(ctx context.Context) (opened bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := l.client.deliveries().WatchDeliveries(ctx, &fanfarev1.WatchDeliveriesRequest{
		Parent: parentOf(l.subscription), Subscription: l.subscription,
	})
	if err != nil {
		return false, err
	}
	// With the header the server says that nothing is missed from here on.
	if header, err := stream.Header(); err != nil || header == nil {
		_, err = stream.Recv() // it has ended, and says why
		return false, streamEnd(err)
	}
	l.client.note("Forwarding what is delivered to %s to %s; Ctrl-C ends it.", lastPart(l.subscription), l.url)
	missed, err := l.listNew(ctx)
	if err != nil {
		return true, err
	}
	for _, d := range missed {
		if err := l.take(ctx, d); err != nil {
			return true, err
		}
	}
	for {
		change, err := stream.Recv()
		if err != nil {
			return true, streamEnd(err)
		}
		if err := l.take(ctx, change.GetDelivery()); err != nil {
			return true, err
		}
	}
}

// listNew returns what has to be forwarded and was not, oldest first.
func (l *listener) listNew(ctx context.Context) ([]*fanfarev1.Delivery, error) {
	request := &fanfarev1.ListDeliveriesRequest{PageSize: largestPage}
	if !l.from.IsZero() {
		request.StartTime = timestamppb.New(l.from)
	}
	var found []*fanfarev1.Delivery
	for {
		page, err := l.list(ctx, request)
		if err != nil {
			return nil, err
		}
		for _, d := range page.GetDeliveries() {
			if l.isNew(d) {
				found = append(found, d)
			}
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			break
		}
	}
	// They come with the newest event first, which a retry may have made the
	// one that began first.
	slices.Reverse(found)
	slices.SortStableFunc(found, func(a, b *fanfarev1.Delivery) int {
		return a.GetCreateTime().AsTime().Compare(b.GetCreateTime().AsTime())
	})
	return found, nil
}

// list lists deliveries of the subscription.
func (l *listener) list(ctx context.Context, request *fanfarev1.ListDeliveriesRequest) (*fanfarev1.ListDeliveriesResponse, error) {
	request.Parent, request.Subscription = parentOf(l.subscription), l.subscription
	return l.client.deliveries().ListDeliveries(ctx, request)
}

func (l *listener) isNew(d *fanfarev1.Delivery) bool {
	return !d.GetCreateTime().AsTime().Before(l.from) && !l.seen[obligationOf(d)]
}

// note remembers that a delivery needs no forwarding any more.
func (l *listener) note(d *fanfarev1.Delivery) {
	is := obligationOf(d)
	l.seen[is] = true
	if from := is.since.Add(-listenOverlap); from.After(l.from) {
		l.from = from
	}
	if len(l.seen) <= 2*l.kept+largestPage {
		return
	}
	for old := range l.seen {
		if old.since.Before(l.from) {
			delete(l.seen, old)
		}
	}
	l.kept = len(l.seen)
}

// take forwards a delivery if it is new. An error is of the server: the
// delivery is still to be forwarded.
func (l *listener) take(ctx context.Context, d *fanfarev1.Delivery) error {
	if !l.isNew(d) {
		return nil
	}
	_, err := l.forward(ctx, d)
	if errors.Is(err, errNoEvent) {
		l.client.note("fanfare: %s: %s", lastPart(d.GetName()), describe(err))
		err = nil
	}
	if err == nil {
		l.note(d)
	}
	return err
}

// errNoEvent says that there is nothing to forward.
var errNoEvent = errors.New("its event is no longer kept")

// forward sends a delivery and shows that.
func (l *listener) forward(ctx context.Context, d *fanfarev1.Delivery) (*fanfarev1.SendTestResponse, error) {
	dispatch, err := l.dispatch(ctx, d)
	if err != nil {
		return nil, err
	}
	endpoint, err := l.endpoint(ctx)
	if err != nil {
		return nil, err
	}
	sent := l.tester.Forward(ctx, endpoint, dispatch)
	if ended(ctx) {
		return nil, ctx.Err()
	}
	return sent, l.show(d, sent)
}

// dispatch returns what a worker is given of a delivery's event.
func (l *listener) dispatch(ctx context.Context, d *fanfarev1.Delivery) (*linkv1.Dispatch, error) {
	if d.GetEvent() == "" {
		return nil, errNoEvent
	}
	event, err := l.client.events().GetEvent(ctx, &fanfarev1.GetEventRequest{Name: d.GetEvent()})
	if codeOf(err) == codes.NotFound || err == nil && event.GetDataExpired() {
		return nil, errNoEvent
	}
	if err != nil {
		return nil, err
	}
	encoded, err := proto.Marshal(event)
	if err != nil {
		return nil, fmt.Errorf("encoding event: %w", err)
	}
	return &linkv1.Dispatch{
		Tenant: lastPart(parentOf(l.subscription)), Event: encoded, PublishTimeUnixMs: event.GetPublishTime().AsTime().UnixMilli(),
	}, nil
}

// endpoint returns the subscription as a worker is given it, but at the URL.
// It is read anew for each delivery: it may change, its secrets too.
func (l *listener) endpoint(ctx context.Context) (*linkv1.Endpoint, error) {
	subscription, err := l.client.subscriptions().GetSubscription(ctx, &fanfarev1.GetSubscriptionRequest{Name: l.subscription})
	if err != nil {
		return nil, err
	}
	secret, err := l.client.subscriptions().GetSubscriptionSecret(ctx, &fanfarev1.GetSubscriptionSecretRequest{Name: l.subscription + "/secret"})
	if err != nil {
		return nil, err
	}
	subscription = proto.CloneOf(subscription)
	subscription.Url = l.url
	if l.wait > 0 {
		subscription.Timeout = durationpb.New(l.wait)
	}
	endpoint := &linkv1.Endpoint{
		Tenant: lastPart(parentOf(l.subscription)), Subscription: subscription,
		Credentials: &linkv1.Credentials{Headers: l.headers},
	}
	for _, active := range secret.GetSecrets() {
		endpoint.Secrets = append(endpoint.Secrets, active.GetSecret())
		end := int64(0)
		if active.GetExpireTime() != nil {
			end = active.GetExpireTime().AsTime().UnixMilli()
		}
		endpoint.SecretExpireTimesUnixMs = append(endpoint.SecretExpireTimesUnixMs, end)
	}
	return endpoint, nil
}

// parentOf returns the tenant of a resource of a tenant.
func parentOf(name string) string {
	parts := strings.SplitN(name, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

// show prints what was sent and what came back.
func (l *listener) show(d *fanfarev1.Delivery, sent *fanfarev1.SendTestResponse) error {
	if l.client.format == formatJSON {
		return l.showJSON(d, sent)
	}
	line := forwardLine(d, sent)
	if l.brief {
		return l.client.write(line)
	}
	return l.client.write(line + "\n" + string(exchangeText(sent)) + "\n")
}

func (l *listener) showJSON(d *fanfarev1.Delivery, sent *fanfarev1.SendTestResponse) error {
	delivery, err := toJSON(d)
	if err != nil {
		return err
	}
	exchange, err := toJSON(sent)
	if err != nil {
		return err
	}
	both, err := json.Marshal(map[string]json.RawMessage{"delivery": delivery, "exchange": exchange})
	if err != nil {
		return fmt.Errorf("encoding JSON: %w", err)
	}
	return l.client.writeln(string(both))
}

// forwardLine puts a request and its answer in one line.
func forwardLine(d *fanfarev1.Delivery, sent *fanfarev1.SendTestResponse) string {
	mark := "✓"
	if sent.GetErrorClass() != "" {
		mark = "✗"
	}
	return singleLine(strings.Join([]string{
		mark, lastPart(d.GetName()), d.GetEventType(), lastPart(d.GetEvent()),
		cmp.Or(unlessZero(sent.GetStatusCode()), "-"), span(sent.GetLatency()), singleLine(sent.GetError()),
	}, "  ")) + "\n"
}

// resendAll forwards deliveries that are named by their ids, or by their
// events'.
func (l *listener) resendAll(ctx context.Context, ids []string) error {
	for _, id := range ids {
		d, err := l.find(ctx, id)
		if err != nil {
			return err
		}
		sent, err := l.forward(ctx, d)
		if err != nil {
			return fmt.Errorf("%s: %w", lastPart(d.GetName()), err)
		}
		if sent.GetErrorClass() != "" {
			return fmt.Errorf("the URL failed (%s): %s", sent.GetErrorClass(), singleLine(sent.GetError()))
		}
	}
	return nil
}

// find returns the delivery of the subscription that an id names: its own, or
// its event's.
func (l *listener) find(ctx context.Context, id string) (*fanfarev1.Delivery, error) {
	if !strings.HasPrefix(id, "dlv_") && !strings.Contains(id, "/deliveries/") {
		page, err := l.list(ctx, &fanfarev1.ListDeliveriesRequest{Event: id, PageSize: 1})
		if err != nil {
			return nil, err
		}
		if len(page.GetDeliveries()) == 0 {
			return nil, fmt.Errorf("%s has no delivery of an event %s", lastPart(l.subscription), id)
		}
		return page.GetDeliveries()[0], nil
	}
	name, err := l.client.resourceName("deliveries", id)
	if err != nil {
		return nil, err
	}
	d, err := l.client.deliveries().GetDelivery(ctx, &fanfarev1.GetDeliveryRequest{Name: name})
	if err == nil && d.GetSubscription() != l.subscription {
		err = fmt.Errorf("%s is a delivery of %s, not of %s", id, lastPart(d.GetSubscription()), lastPart(l.subscription))
	}
	return d, err
}
