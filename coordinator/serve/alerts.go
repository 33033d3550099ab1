package serve

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// GetAlert implements AlertService.
func (s *Server) GetAlert(ctx context.Context, request *fanfarev1.GetAlertRequest) (*fanfarev1.Alert, error) {
	tenant, id, err := parseChild("name", request.GetName(), "alerts")
	if err != nil {
		return nil, err
	}
	leader, err := s.leader(ctx, tenant)
	if err != nil {
		return nil, err
	}
	var stored *linkv1.StoredAlert
	if err := leader.Query(ctx, func(l *ledger.Ledger) { stored = l.Alert(id) }); err != nil {
		return nil, err
	}
	if stored.GetTenant() != string(tenant) {
		return nil, notFound("alert", request.GetName())
	}
	return leader.ShowAlert(id, stored), nil
}

// ListAlerts implements AlertService.
func (s *Server) ListAlerts(ctx context.Context, request *fanfarev1.ListAlertsRequest) (*fanfarev1.ListAlertsResponse, error) {
	tenant, err := parseTenant("parent", request.GetParent())
	if err != nil {
		return nil, err
	}
	page, err := pageOf(request.GetPageSize(), request.GetPageToken())
	if err != nil {
		return nil, err
	}
	after, err := base64.RawURLEncoding.DecodeString(page.Token)
	if err != nil {
		return nil, history.ErrPageToken
	}
	wants, err := alertFilter(tenant, request)
	if err != nil {
		return nil, err
	}
	leader, err := s.leader(ctx, tenant)
	if err != nil {
		return nil, err
	}
	response := new(fanfarev1.ListAlertsResponse)
	err = leader.Query(ctx, func(l *ledger.Ledger) {
		last := ""
		for _, id := range l.Alerts() {
			stored := l.Alert(id)
			if id <= string(after) || !wants(stored) {
				continue
			}
			if len(response.GetAlerts()) == page.Size {
				response.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(last))
				break
			}
			response.Alerts = append(response.Alerts, leader.ShowAlert(id, stored))
			last = id
		}
	})
	return response, err
}

// alertFilter reads the filters of a request.
func alertFilter(tenant ledger.TenantID, request *fanfarev1.ListAlertsRequest) (func(*linkv1.StoredAlert) bool, error) {
	if _, known := fanfarev1.Alert_State_name[int32(request.GetState())]; !known {
		return nil, invalid("state", "is %d, which is not a state", request.GetState())
	}
	if kind := request.GetKind(); kind != "" && !slices.Contains(alert.Kinds(true), alert.Kind(kind)) {
		return nil, invalid("kind", "is %q, which is no kind of alert", kind)
	}
	subscription, err := alertSubscription(tenant, request.GetSubscription())
	if err != nil {
		return nil, err
	}
	return func(stored *linkv1.StoredAlert) bool {
		a := stored.GetAlert()
		return stored.GetTenant() == string(tenant) &&
			(subscription == "" || a.GetSubscription() == subscription) &&
			(request.GetKind() == "" || a.GetKind() == request.GetKind()) &&
			(request.GetState() == fanfarev1.Alert_STATE_UNSPECIFIED || a.GetState() == request.GetState())
	}, nil
}

// alertSubscription reads a subscription as a filter, and returns its full
// name; it may be absent.
func alertSubscription(tenant ledger.TenantID, value string) (string, error) {
	id, err := parseFilter("subscription", value, tenant, "subscriptions")
	if err != nil || id == "" {
		return "", err
	}
	return subscriptionName(tenant, id), nil
}

// WatchAlerts implements AlertService.
func (s *Server) WatchAlerts(request *fanfarev1.WatchAlertsRequest, stream grpc.ServerStreamingServer[fanfarev1.WatchAlertsResponse]) error {
	tenant, err := parseTenant("parent", request.GetParent())
	if err != nil {
		return err
	}
	subscription, err := alertSubscription(tenant, request.GetSubscription())
	if err != nil {
		return err
	}
	leader, err := s.leader(stream.Context(), tenant)
	if err != nil {
		return err
	}
	watcher, err := leader.WatchAlerts(tenant, subscription)
	if err != nil {
		return err
	}
	// The header tells the client that from here on nothing is missed.
	defer watcher.End()
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	return watcher.Pass(stream.Context(), func(a *fanfarev1.Alert) error {
		return stream.Send(&fanfarev1.WatchAlertsResponse{Alert: a})
	})
}

// ruleParent is whose rules are meant: a tenant's, or a subscription's.
type ruleParent struct {
	tenant       ledger.TenantID
	subscription string // id; empty: the tenant's own
}

func (p ruleParent) name() string {
	if p.subscription == "" {
		return tenantName(p.tenant)
	}
	return subscriptionName(p.tenant, p.subscription)
}

// parseRuleParent reads `tenants/{tenant}` or
// `tenants/{tenant}/subscriptions/{subscription}`.
func parseRuleParent(field, name string) (p ruleParent, err error) {
	if strings.Count(name, "/") > 1 {
		p.tenant, p.subscription, err = parseChild(field, name, "subscriptions")
		return p, err
	}
	p.tenant, err = parseTenant(field, name)
	return p, err
}

// parseRule reads the name of a rule, and refuses kinds that its parent has no
// rules of.
func parseRule(field, name string) (p ruleParent, kind alert.Kind, err error) {
	collections := []string{"tenants", "alertRules"}
	if strings.Count(name, "/") > 3 {
		collections = []string{"tenants", "subscriptions", "alertRules"}
	}
	ids, err := parseName(field, name, collections...)
	if err != nil {
		return p, "", err
	}
	p.tenant, kind = ledger.TenantID(ids[0]), alert.Kind(ids[len(ids)-1])
	if len(ids) > 2 {
		p.subscription = ids[1]
	}
	if !slices.Contains(p.kinds(), kind) {
		return p, "", notFound("alert rule", name)
	}
	return p, kind, nil
}

// kinds are the kinds of alerts that can be about a parent.
func (p ruleParent) kinds() []alert.Kind {
	return alert.Kinds(p.tenant == SystemTenant && p.subscription == "")
}

// rulesOf returns the rules that are in force for a parent.
func rulesOf(l *ledger.Ledger, p ruleParent) (alert.Rules, error) {
	rules := alert.Rules{Tenant: l.Tenant(p.tenant).GetAlertRules()}
	if p.subscription == "" {
		return rules, nil
	}
	sub := l.SubscriptionByID(p.tenant, p.subscription)
	if sub == nil {
		return rules, notFound("subscription", p.name())
	}
	rules.Subscription = sub.Stored.GetSubscription().GetAlertRules()
	return rules, nil
}

// readRules returns the rules that are in force for a parent, of a tenant that
// exists.
func (s *Server) readRules(ctx context.Context, p ruleParent) (rules alert.Rules, err error) {
	if err := s.read(ctx, p.tenant, func(l *ledger.Ledger) { rules, err = rulesOf(l, p) }); err != nil {
		return rules, err
	}
	return rules, err
}

// GetAlertRule implements AlertService.
func (s *Server) GetAlertRule(ctx context.Context, request *fanfarev1.GetAlertRuleRequest) (*fanfarev1.AlertRule, error) {
	parent, kind, err := parseRule("name", request.GetName())
	if err != nil {
		return nil, err
	}
	rules, err := s.readRules(ctx, parent)
	if err != nil {
		return nil, err
	}
	return rules.Of(kind).Show(parent.name()), nil
}

// ListAlertRules implements AlertService.
func (s *Server) ListAlertRules(ctx context.Context, request *fanfarev1.ListAlertRulesRequest) (*fanfarev1.ListAlertRulesResponse, error) {
	parent, err := parseRuleParent("parent", request.GetParent())
	if err != nil {
		return nil, err
	}
	if _, err := pageOf(request.GetPageSize(), ""); err != nil {
		return nil, err
	}
	if request.GetPageToken() != "" {
		return nil, history.ErrPageToken
	}
	rules, err := s.readRules(ctx, parent)
	if err != nil {
		return nil, err
	}
	response := new(fanfarev1.ListAlertRulesResponse)
	for _, kind := range parent.kinds() {
		response.AlertRules = append(response.AlertRules, rules.Of(kind).Show(parent.name()))
	}
	return response, nil
}

// UpdateAlertRule implements AlertService.
func (s *Server) UpdateAlertRule(ctx context.Context, request *fanfarev1.UpdateAlertRuleRequest) (*fanfarev1.AlertRule, error) {
	given := request.GetAlertRule()
	parent, kind, err := parseRule("alert_rule.name", given.GetName())
	if err != nil {
		return nil, err
	}
	var updated alert.Rule
	err = s.changeRules(ctx, parent, func(rules alert.Rules, layer []*fanfarev1.AlertRule) ([]*fanfarev1.AlertRule, error) {
		rule, err := rules.Of(kind).Changed(given, request.GetUpdateMask().GetPaths())
		if wrong, ok := errors.AsType[*alert.FieldError](err); ok && wrong.Field == "update_mask" {
			return nil, invalid(wrong.Field, "%s", wrong.Problem)
		} else if ok {
			return nil, within("alert_rule", invalid(wrong.Field, "%s", wrong.Problem))
		}
		if err != nil {
			return nil, err
		}
		if rule.Origin = alert.OfTenant; parent.subscription != "" {
			rule.Origin = alert.OfSubscription
		}
		updated = rule
		return rule.With(layer), nil
	})
	if err != nil {
		return nil, err
	}
	return updated.Show(parent.name()), nil
}

// DeleteAlertRule implements AlertService.
func (s *Server) DeleteAlertRule(ctx context.Context, request *fanfarev1.DeleteAlertRuleRequest) (*emptypb.Empty, error) {
	parent, kind, err := parseRule("name", request.GetName())
	if err != nil {
		return nil, err
	}
	err = s.changeRules(ctx, parent, func(_ alert.Rules, layer []*fanfarev1.AlertRule) ([]*fanfarev1.AlertRule, error) {
		return alert.Without(layer, kind), nil
	})
	return &emptypb.Empty{}, err
}

// changeRules changes what a parent has changed of its rules. change is told
// what is in force, too.
func (s *Server) changeRules(ctx context.Context, parent ruleParent,
	change func(rules alert.Rules, layer []*fanfarev1.AlertRule) ([]*fanfarev1.AlertRule, error),
) error {
	leader, err := s.leader(ctx, parent.tenant)
	if err != nil {
		return err
	}
	if parent.subscription != "" {
		return leader.Change(ctx, parent.subscription, func(l *ledger.Ledger, _ ledger.Number, record *linkv1.Record) error {
			rules, err := rulesOf(l, parent)
			if err != nil {
				return err
			}
			sub := l.SubscriptionByID(parent.tenant, parent.subscription)
			stored := proto.CloneOf(sub.Stored)
			if stored.Subscription.AlertRules, err = change(rules, rules.Subscription); err != nil {
				return err
			}
			touch(stored.GetSubscription())
			record.Subscriptions = append(record.Subscriptions, &linkv1.SubscriptionChange{Number: uint64(sub.Number), Put: stored})
			return nil
		})
	}
	return leader.ChangeTenant(ctx, func(l *ledger.Ledger) (*linkv1.TenantChange, error) {
		before := l.Tenant(parent.tenant)
		if before == nil && !builtIn(parent.tenant) {
			return nil, notFound("tenant", tenantName(parent.tenant))
		}
		rules, err := rulesOf(l, parent)
		if err != nil {
			return nil, err
		}
		updated := showTenant(parent.tenant, before)
		updated.Name = ""
		updated.AlertRules, err = change(rules, rules.Tenant)
		return &linkv1.TenantChange{Id: string(parent.tenant), Put: updated}, err
	})
}

// RecordAlerts implements PartitionService.
func (s *Server) RecordAlerts(ctx context.Context, request *linkv1.RecordAlertsRequest) (*linkv1.RecordAlertsResponse, error) {
	tenant, err := parseTenant("parent", request.GetParent())
	if err != nil {
		return nil, err
	}
	if request.GetSource() == "" {
		return nil, invalid("source", "is empty")
	}
	for _, change := range request.GetChanges() {
		if put := change.GetPut(); put != nil && (put.GetTenant() != string(tenant) || put.GetSource() != request.GetSource()) {
			return nil, &Error{codes.InvalidArgument, "changes", "are of another tenant or source"}
		}
	}
	leader, err := s.leader(ctx, tenant)
	if err != nil {
		return nil, err
	}
	kept, err := leader.RecordAlerts(ctx, request.GetSource(), request.GetChanges())
	return &linkv1.RecordAlertsResponse{Alerts: kept}, err
}
