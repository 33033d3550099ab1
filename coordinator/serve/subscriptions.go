package serve

import (
	"context"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Limits of a subscription. They are part of the API: see
// subscription_service.proto.
const (
	maxPatterns    = 100
	maxDescription = 1024 // bytes
	maxWaits       = 50
	maxWait        = 7 * 24 * time.Hour
	minTimeout     = time.Second
	maxTimeout     = 30 * time.Second
	minPartTimeout = 100 * time.Millisecond // of connecting, of the TLS handshake
)

// defaultPayloadMode is what an empty payload mode means.
const defaultPayloadMode = "standard"

// CreateSubscription implements SubscriptionService.
func (s *Server) CreateSubscription(ctx context.Context, request *fanfarev1.CreateSubscriptionRequest) (*fanfarev1.Subscription, error) {
	tenant, err := parseTenant("parent", request.GetParent())
	if err != nil {
		return nil, err
	}
	wanted := cloneConfig(proto.CloneOf(request.GetSubscription()))
	if err := s.checkSubscription(wanted); err != nil {
		return nil, within("subscription", err)
	}
	secret, err := secretOf(request.GetSubscription(), wanted)
	if err != nil {
		return nil, within("subscription", err)
	}
	id, err := newID("sub_")
	if err != nil {
		return nil, err
	}
	leader, err := s.leader(ctx, tenant)
	if err != nil {
		return nil, err
	}
	if err := leader.Accepts(ctx); err != nil {
		return nil, err
	}
	wanted.CreateTime = timestamppb.Now()
	wanted.UpdateTime = wanted.GetCreateTime()
	stored := &linkv1.StoredSubscription{Tenant: string(tenant), Id: id, Subscription: wanted}
	s.keepSecrets(stored, []keptSecret{{sealed: s.Secrets.Seal(secret.Reveal()), public: secret.PublicKey().String()}})
	if err := s.meet(ctx, leader, stored); err != nil {
		return nil, within("subscription", err)
	}
	if err := s.keepCredentials(stored); err != nil {
		return nil, err
	}
	err = leader.Change(ctx, id, func(l *ledger.Ledger, next ledger.Number, record *linkv1.Record) error {
		if !builtIn(tenant) && l.Tenant(tenant) == nil {
			return notFound("tenant", string(tenant))
		}
		record.Subscriptions = append(record.Subscriptions, &linkv1.SubscriptionChange{Number: uint64(next), Put: stored})
		return nil
	})
	if err != nil {
		return nil, err
	}
	created := show(stored)
	created.Secret = new(secret.Reveal())
	return created, nil
}

// GetSubscription implements SubscriptionService.
func (s *Server) GetSubscription(ctx context.Context, request *fanfarev1.GetSubscriptionRequest) (*fanfarev1.Subscription, error) {
	tenant, id, err := parseChild("name", request.GetName(), "subscriptions")
	if err != nil {
		return nil, err
	}
	var found *fanfarev1.Subscription
	err = s.read(ctx, tenant, func(l *ledger.Ledger) {
		if sub := l.SubscriptionByID(tenant, id); sub != nil {
			found = showWithHealth(sub, sub.Stored)
		}
	})
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, notFound("subscription", request.GetName())
	}
	return found, nil
}

// ListSubscriptions implements SubscriptionService.
func (s *Server) ListSubscriptions(ctx context.Context, request *fanfarev1.ListSubscriptionsRequest) (*fanfarev1.ListSubscriptionsResponse, error) {
	tenant, err := parseTenant("parent", request.GetParent())
	if err != nil {
		return nil, err
	}
	page, err := pageOf(request.GetPageSize(), request.GetPageToken())
	if err != nil {
		return nil, err
	}
	after, err := parseNumberToken(page.Token)
	if err != nil {
		return nil, err
	}
	response := new(fanfarev1.ListSubscriptionsResponse)
	err = s.read(ctx, tenant, func(l *ledger.Ledger) {
		found := l.TenantSubscriptions(tenant, after, page.Size+1)
		if len(found) > page.Size {
			found = found[:page.Size]
			response.NextPageToken = numberToken(found[len(found)-1].Number)
		}
		for _, sub := range found {
			response.Subscriptions = append(response.Subscriptions, showWithHealth(sub, sub.Stored))
		}
	})
	return response, err
}

// UpdateSubscription implements SubscriptionService.
func (s *Server) UpdateSubscription(ctx context.Context, request *fanfarev1.UpdateSubscriptionRequest) (*fanfarev1.Subscription, error) {
	given := request.GetSubscription()
	tenant, id, err := parseChild("subscription.name", given.GetName(), "subscriptions")
	if err != nil {
		return nil, err
	}
	paths, err := maskOf(request)
	if err != nil {
		return nil, err
	}
	leader, err := s.leader(ctx, tenant)
	if err != nil {
		return nil, err
	}
	change := update{given: given, paths: paths, keepCredentials: request.GetKeepCredentials()}
	found, err := s.meetChanged(ctx, leader, tenant, id, change)
	if err != nil {
		return nil, within("subscription", err)
	}
	var updated *fanfarev1.Subscription
	err = s.changeOne(ctx, leader, tenant, id, func(sub *ledger.Subscription, record *linkv1.Record) error {
		if err := checkEtag(given.GetEtag(), sub.Stored); err != nil {
			return err
		}
		stored, err := s.updated(sub.Stored, change)
		if err != nil {
			return within("subscription", err)
		}
		if err := found.holds(sub.Stored, stored); err != nil {
			return err
		}
		updated = showWithHealth(sub, stored)
		record.Subscriptions = append(record.Subscriptions, &linkv1.SubscriptionChange{Number: uint64(sub.Number), Put: stored})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return updated, nil
}

// changeOne makes a change of a subscription that exists durable.
func (s *Server) changeOne(ctx context.Context, leader *lead.Leader, tenant ledger.TenantID, id string,
	build func(sub *ledger.Subscription, record *linkv1.Record) error,
) error {
	return leader.Change(ctx, id, func(l *ledger.Ledger, _ ledger.Number, record *linkv1.Record) error {
		sub := l.SubscriptionByID(tenant, id)
		if sub == nil {
			return notFound("subscription", subscriptionName(tenant, id))
		}
		return build(sub, record)
	})
}

// PauseSubscription implements SubscriptionService.
func (s *Server) PauseSubscription(ctx context.Context, request *fanfarev1.PauseSubscriptionRequest) (*fanfarev1.Subscription, error) {
	return s.control(ctx, request.GetName(), linkv1.Control_PAUSE)
}

// ResumeSubscription implements SubscriptionService.
func (s *Server) ResumeSubscription(ctx context.Context, request *fanfarev1.ResumeSubscriptionRequest) (*fanfarev1.Subscription, error) {
	if request.GetFromNow() {
		return s.control(ctx, request.GetName(), linkv1.Control_RESUME_FROM_NOW)
	}
	return s.control(ctx, request.GetName(), linkv1.Control_RESUME)
}

// control pauses or resumes a subscription, and returns it as it is then.
func (s *Server) control(ctx context.Context, name string, action linkv1.Control_Action) (*fanfarev1.Subscription, error) {
	tenant, id, err := parseChild("name", name, "subscriptions")
	if err != nil {
		return nil, err
	}
	leader, err := s.leader(ctx, tenant)
	if err != nil {
		return nil, err
	}
	err = s.changeOne(ctx, leader, tenant, id, func(sub *ledger.Subscription, record *linkv1.Record) error {
		record.Controls = append(record.Controls, &linkv1.Control{Subscription: uint64(sub.Number), Action: action})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.GetSubscription(ctx, &fanfarev1.GetSubscriptionRequest{Name: name})
}

// DeleteSubscription implements SubscriptionService.
func (s *Server) DeleteSubscription(ctx context.Context, request *fanfarev1.DeleteSubscriptionRequest) (*emptypb.Empty, error) {
	tenant, id, err := parseChild("name", request.GetName(), "subscriptions")
	if err != nil {
		return nil, err
	}
	leader, err := s.leader(ctx, tenant)
	if err != nil {
		return nil, err
	}
	err = s.changeOne(ctx, leader, tenant, id, func(sub *ledger.Subscription, record *linkv1.Record) error {
		if err := checkEtag(request.GetEtag(), sub.Stored); err != nil {
			return err
		}
		record.Subscriptions = append(record.Subscriptions, &linkv1.SubscriptionChange{Number: uint64(sub.Number)})
		return nil
	})
	return &emptypb.Empty{}, err
}

// read runs f with the ledger of a tenant's partition.
func (s *Server) read(ctx context.Context, tenant ledger.TenantID, f func(*ledger.Ledger)) error {
	leader, err := s.leader(ctx, tenant)
	if err != nil {
		return err
	}
	return leader.Query(ctx, f)
}

// cloneConfig copies what a client may set, but for the secret.
func cloneConfig(given *fanfarev1.Subscription) *fanfarev1.Subscription {
	return &fanfarev1.Subscription{
		Url:           given.GetUrl(),
		EventTypes:    given.GetEventTypes(),
		Description:   given.GetDescription(),
		PayloadMode:   given.GetPayloadMode(),
		RetrySchedule: given.GetRetrySchedule(),
		Timeout:       given.GetTimeout(),
		Ordering:      given.GetOrdering(),
		Rate:          given.GetRate(),
		Burst:         given.GetBurst(),
		BatchCount:    given.GetBatchCount(),
		BatchBytes:    given.GetBatchBytes(),
		BatchWait:     given.GetBatchWait(),
		Signing:       given.GetSigning(),

		Headers:          given.GetHeaders(),
		Authentication:   given.GetAuthentication(),
		Tls:              given.GetTls(),
		ConnectTimeout:   given.GetConnectTimeout(),
		TlsTimeout:       given.GetTlsTimeout(),
		Compression:      given.GetCompression(),
		OmitTraceContext: given.GetOmitTraceContext(),
		Verification:     given.GetVerification(),
		Handshake:        askedHandshake(given.GetHandshake()),
	}
}

// askedHandshake copies what a client may set of it.
func askedHandshake(given *fanfarev1.WebhookHandshake) *fanfarev1.WebhookHandshake {
	if given == nil {
		return nil
	}
	return &fanfarev1.WebhookHandshake{RequestsPerMinute: given.GetRequestsPerMinute()}
}

// checkSubscription says what is wrong with a subscription, and fills in the
// payload mode.
func (s *Server) checkSubscription(sub *fanfarev1.Subscription) error {
	if sub.GetUrl() == "" {
		return invalid("url", "is empty")
	}
	if err := s.URLs.CheckURL(sub.GetUrl()); err != nil {
		return invalid("url", "is not allowed: %s", err.Error())
	}
	if err := checkPatterns(sub.GetEventTypes()); err != nil {
		return err
	}
	if err := checkText("description", sub.GetDescription(), maxDescription); err != nil {
		return err
	}
	switch sub.GetPayloadMode() {
	case "":
		sub.PayloadMode = defaultPayloadMode
	case defaultPayloadMode, "cloudevents-binary", "cloudevents-structured", "raw":
	default:
		return invalid("payload_mode", "is %q; expected standard, cloudevents-binary, cloudevents-structured or raw", sub.GetPayloadMode())
	}
	if err := checkTimes(sub); err != nil {
		return err
	}
	if err := checkSending(sub); err != nil {
		return err
	}
	if err := checkSigning(sub.GetSigning()); err != nil {
		return err
	}
	if sub.GetCompression() != "" && sub.GetCompression() != "gzip" {
		return invalid("compression", "is %q; expected gzip, or nothing", sub.GetCompression())
	}
	if err := s.checkMeeting(sub); err != nil {
		return err
	}
	return s.checkCredentials(sub)
}

// checkPatterns says what is wrong with a list of patterns of event types.
func checkPatterns(patterns []string) error {
	if len(patterns) > maxPatterns {
		return invalid("event_types", "has %d patterns; at most %d are allowed", len(patterns), maxPatterns)
	}
	for i, pattern := range patterns {
		if err := ledger.CheckPattern(pattern); err != nil {
			return invalid("event_types["+strconv.Itoa(i)+"]", "%s", err.Error())
		}
	}
	return nil
}

func checkTimes(sub *fanfarev1.Subscription) error {
	if len(sub.GetRetrySchedule()) > maxWaits {
		return invalid("retry_schedule", "has %d waits; at most %d are allowed", len(sub.GetRetrySchedule()), maxWaits)
	}
	for i, wait := range sub.GetRetrySchedule() {
		if err := checkDuration("retry_schedule["+strconv.Itoa(i)+"]", wait, 0, maxWait); err != nil {
			return err
		}
	}
	for _, timeout := range []struct {
		field string
		value *durationpb.Duration
		least time.Duration
	}{
		{"timeout", sub.GetTimeout(), minTimeout},
		{"connect_timeout", sub.GetConnectTimeout(), minPartTimeout},
		{"tls_timeout", sub.GetTlsTimeout(), minPartTimeout},
	} {
		if timeout.value == nil {
			continue
		}
		if err := checkDuration(timeout.field, timeout.value, timeout.least, maxTimeout); err != nil {
			return err
		}
	}
	return nil
}

func checkDuration(field string, d *durationpb.Duration, least, most time.Duration) error {
	if !d.IsValid() || d.AsDuration() < least || d.AsDuration() > most {
		return invalid(field, "is %s; %s to %s are allowed", d.AsDuration(), least, most)
	}
	return nil
}

// updatable are the fields a client may change, with whether one is set.
func updatable(given *fanfarev1.Subscription) map[string]bool {
	return map[string]bool{
		"url":            given.GetUrl() != "",
		"event_types":    len(given.GetEventTypes()) > 0,
		"description":    given.GetDescription() != "",
		"payload_mode":   given.GetPayloadMode() != "",
		"retry_schedule": len(given.GetRetrySchedule()) > 0,
		"timeout":        given.GetTimeout() != nil,
		"ordering":       given.GetOrdering() != "",
		"rate":           given.GetRate() != 0,
		"burst":          given.GetBurst() != 0,
		"batch_count":    given.GetBatchCount() != 0,
		"batch_bytes":    given.GetBatchBytes() != 0,
		"batch_wait":     given.GetBatchWait() != nil,
		"secret":         given.Secret != nil,
		"signing":        given.GetSigning() != nil,

		"headers":            len(given.GetHeaders()) > 0,
		"authentication":     given.GetAuthentication() != nil,
		"tls":                given.GetTls() != nil,
		"connect_timeout":    given.GetConnectTimeout() != nil,
		"tls_timeout":        given.GetTlsTimeout() != nil,
		"compression":        given.GetCompression() != "",
		"omit_trace_context": given.GetOmitTraceContext(),
		"verification":       given.GetVerification() != "",
		"handshake":          given.GetHandshake() != nil,
	}
}

// maskOf returns the fields to change.
func maskOf(request *fanfarev1.UpdateSubscriptionRequest) (map[string]bool, error) {
	known := updatable(request.GetSubscription())
	if len(request.GetUpdateMask().GetPaths()) == 0 {
		return known, nil
	}
	paths := make(map[string]bool)
	for _, path := range request.GetUpdateMask().GetPaths() {
		name := fieldOf(path)
		switch _, ok := known[name]; {
		case ok:
			paths[name] = true
		case path == "*":
			for name := range known {
				paths[name] = name != "secret" || known[name]
			}
		case path == "etag", outputOnly(path): // so that what Get answered can be sent back
		default:
			return nil, invalid("update_mask", "has %q, which is not a field that can be changed", path)
		}
	}
	return paths, nil
}

// fieldOf returns the field that a path leads to. A path into one of those that
// only make sense as a whole, which the REST gateway makes of them, stands for
// all of it.
func fieldOf(path string) string {
	switch name, _, _ := strings.Cut(path, "."); name {
	case "signing", "headers", "authentication", "tls", "handshake":
		return name
	}
	return path
}

// outputOnly reports whether a path leads to what only the server sets, which
// is to be ignored (https://google.aip.dev/203).
func outputOnly(path string) bool {
	name, _, _ := strings.Cut(path, ".")
	fields := new(fanfarev1.Subscription).ProtoReflect().Descriptor().Fields()
	field := fields.ByName(protoreflect.Name(name))
	if field == nil {
		return false
	}
	behavior, _ := proto.GetExtension(field.Options(), annotations.E_FieldBehavior).([]annotations.FieldBehavior)
	return slices.Contains(behavior, annotations.FieldBehavior_OUTPUT_ONLY)
}

// update is what a client wants changed.
type update struct {
	given           *fanfarev1.Subscription
	paths           map[string]bool // fields of it that count
	keepCredentials bool            // also where another host gets to see them
}

// updated returns a stored subscription with some fields changed.
func (s *Server) updated(old *linkv1.StoredSubscription, u update) (*linkv1.StoredSubscription, error) {
	stored, given, paths := proto.CloneOf(old), u.given, u.paths
	if err := s.unmask(stored); err != nil {
		return nil, err
	}
	sub, from := stored.GetSubscription(), cloneConfig(proto.CloneOf(given))
	if err := u.checkMove(sub); err != nil {
		return nil, err
	}
	fillMasked(from, sub)
	if paths["url"] {
		sub.Url = from.GetUrl()
	}
	if paths["event_types"] {
		sub.EventTypes = from.GetEventTypes()
	}
	if paths["description"] {
		sub.Description = from.GetDescription()
	}
	if paths["payload_mode"] {
		sub.PayloadMode = from.GetPayloadMode()
	}
	if paths["retry_schedule"] {
		sub.RetrySchedule = from.GetRetrySchedule()
	}
	if paths["timeout"] {
		sub.Timeout = from.GetTimeout()
	}
	updateSending(sub, from, paths)
	if paths["signing"] {
		sub.Signing = from.GetSigning()
	}
	updateReceiving(sub, from, paths)
	if err := s.checkSubscription(sub); err != nil {
		return nil, err
	}
	if paths["secret"] || paths["signing"] {
		if err := s.updateSecrets(stored, given, paths["secret"]); err != nil {
			return nil, err
		}
	}
	touch(sub)
	return stored, s.keepCredentials(stored)
}

// updateReceiving takes over what decides how the endpoint is met.
func updateReceiving(sub, from *fanfarev1.Subscription, paths map[string]bool) {
	if paths["headers"] {
		sub.Headers = from.GetHeaders()
	}
	if paths["authentication"] {
		sub.Authentication = from.GetAuthentication()
	}
	if paths["tls"] {
		sub.Tls = from.GetTls()
	}
	if paths["connect_timeout"] {
		sub.ConnectTimeout = from.GetConnectTimeout()
	}
	if paths["tls_timeout"] {
		sub.TlsTimeout = from.GetTlsTimeout()
	}
	if paths["compression"] {
		sub.Compression = from.GetCompression()
	}
	if paths["omit_trace_context"] {
		sub.OmitTraceContext = from.GetOmitTraceContext()
	}
	if paths["verification"] {
		sub.Verification = from.GetVerification()
	}
	if paths["handshake"] {
		sub.Handshake = from.GetHandshake()
	}
}

// touch makes the update time later than before: times differ even where the
// clock stands still or goes back, since they make the etag.
func touch(sub *fanfarev1.Subscription) {
	before := sub.GetUpdateTime().AsTime()
	if now := time.Now(); now.After(before) {
		sub.UpdateTime = timestamppb.New(now)
	} else {
		sub.UpdateTime = timestamppb.New(before.Add(time.Nanosecond))
	}
}

// etagOf changes with every update, since the update time does.
func etagOf(stored *linkv1.StoredSubscription) string {
	t := stored.GetSubscription().GetUpdateTime().AsTime()
	return `"` + strconv.FormatInt(t.UnixNano(), 36) + `"`
}

func checkEtag(given string, stored *linkv1.StoredSubscription) error {
	if given != "" && given != etagOf(stored) {
		return &Error{codes.Aborted, "etag", "does not match: the subscription was changed meanwhile"}
	}
	return nil
}

// show returns a subscription as clients see it, without its secret.
func show(stored *linkv1.StoredSubscription) *fanfarev1.Subscription {
	sub := proto.CloneOf(stored.GetSubscription())
	sub.Name = subscriptionName(ledger.TenantID(stored.GetTenant()), stored.GetId())
	sub.Etag = etagOf(stored)
	sub.State = fanfarev1.Subscription_ACTIVE
	for _, kept := range secretsInForce(stored, time.Now()) {
		if kept.public != "" {
			sub.PublicKeys = append(sub.PublicKeys, kept.public)
		}
	}
	return sub
}

// showWithHealth is show, with what is known of the endpoint.
func showWithHealth(sub *ledger.Subscription, stored *linkv1.StoredSubscription) *fanfarev1.Subscription {
	shown, health := show(stored), sub.Health()
	switch health.Mode {
	case ledger.Paused:
		shown.State = fanfarev1.Subscription_PAUSED
	case ledger.Disabled:
		shown.State = fanfarev1.Subscription_DISABLED
	case ledger.Active:
	}
	shown.StateReason, shown.StateTime = health.ModeReason, timeOf(health.ModeSince)
	_, behind := sub.Behind()
	shown.Health = &fanfarev1.SubscriptionHealth{
		OutstandingCount:    int64(sub.OutstandingCount()),
		Behind:              behind,
		ConsecutiveFailures: int64(health.Failures), //nolint:gosec // counts attempts
		FailingSince:        timeOf(health.Since),
		BreakerOpen:         health.Open,
		NextProbeTime:       timeOf(health.NextProbe),
	}
	if health.Hold.After(time.Now()) {
		shown.Health.HoldTime = timeOf(health.Hold)
	}
	return shown
}

// timeOf is a time as messages have it: absent if it is zero.
func timeOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// numberToken is the page token of lists that are ordered by number.
func numberToken(last ledger.Number) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatUint(uint64(last), 36)))
}

func parseNumberToken(token string) (ledger.Number, error) {
	if token == "" {
		return 0, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return 0, history.ErrPageToken
	}
	n, err := strconv.ParseUint(string(text), 36, 64)
	if err != nil {
		return 0, history.ErrPageToken
	}
	return ledger.Number(n), nil
}
