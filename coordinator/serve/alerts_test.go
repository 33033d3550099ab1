package serve_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func (w *world) rule(name string) *fanfarev1.AlertRule {
	w.Helper()
	return must[*fanfarev1.AlertRule](w)(w.alerts().GetAlertRule(w.Context(), &fanfarev1.GetAlertRuleRequest{Name: name}))
}

func (w *world) alerts() fanfarev1.AlertServiceClient { return fanfarev1.NewAlertServiceClient(w.conn) }

// What was changed for a subscription counts, then what was for its tenant, then
// the default.
func TestAlertRules(t *testing.T) {
	inWorld(t, func(w *world) {
		sub := w.subscribe(tenant)
		other := w.subscribe(tenant)
		const ratio = "/alertRules/failure_ratio"
		update := func(rule *fanfarev1.AlertRule, paths ...string) (*fanfarev1.AlertRule, error) {
			request := &fanfarev1.UpdateAlertRuleRequest{AlertRule: rule}
			if len(paths) > 0 {
				request.UpdateMask = &fieldmaskpb.FieldMask{Paths: paths}
			}
			return w.alerts().UpdateAlertRule(w.Context(), request)
		}
		check := func(name string, threshold float64, origin string) {
			w.Helper()
			if rule := w.rule(name); rule.GetThreshold() != threshold || rule.GetOrigin() != origin || rule.GetName() != name || rule.GetDescription() == "" {
				w.Errorf("%s is %v, want %v from %q", name, rule, threshold, origin)
			}
		}
		check(tenant+ratio, 0.5, "")
		check(sub.GetName()+ratio, 0.5, "")
		must[*fanfarev1.AlertRule](w)(update(&fanfarev1.AlertRule{Name: tenant + ratio, Threshold: 0.2, Period: durationpb.New(time.Hour)}))
		must[*fanfarev1.AlertRule](w)(update(&fanfarev1.AlertRule{Name: sub.GetName() + ratio, Threshold: 0.1}))
		check(tenant+ratio, 0.2, "tenant")
		check(other.GetName()+ratio, 0.2, "tenant")
		check(sub.GetName()+ratio, 0.1, "subscription")
		if rule := w.rule(sub.GetName() + ratio); rule.GetPeriod().AsDuration() != time.Hour {
			w.Errorf("the rule is %v, want what was in force for all that was not changed", rule)
		}

		// It survives updates of what it belongs to, and changes nothing else.
		must[*fanfarev1.Subscription](w)(w.subscriptions.UpdateSubscription(w.Context(), &fanfarev1.UpdateSubscriptionRequest{
			Subscription: &fanfarev1.Subscription{Name: sub.GetName(), Description: "mine"},
		}))
		must[*fanfarev1.Tenant](w)(w.tenants.UpdateTenant(w.Context(), &fanfarev1.UpdateTenantRequest{Tenant: &fanfarev1.Tenant{Name: tenant, Rate: 5}}))
		check(tenant+ratio, 0.2, "tenant")
		check(sub.GetName()+ratio, 0.1, "subscription")
		got := must[*fanfarev1.Subscription](w)(w.subscriptions.GetSubscription(w.Context(), &fanfarev1.GetSubscriptionRequest{Name: sub.GetName()}))
		if got.GetUrl() != sub.GetUrl() || got.GetDescription() != "mine" {
			w.Errorf("the subscription is %v", got)
		}

		for _, name := range []string{sub.GetName(), tenant, tenant} {
			if _, err := w.alerts().DeleteAlertRule(w.Context(), &fanfarev1.DeleteAlertRuleRequest{Name: name + ratio}); err != nil {
				w.Error(err)
			}
		}
		check(sub.GetName()+ratio, 0.5, "")

		for name, tt := range map[string]struct {
			rule  *fanfarev1.AlertRule
			paths []string
			code  codes.Code
			field string
		}{
			"a kind of the cluster's": {rule: &fanfarev1.AlertRule{Name: tenant + "/alertRules/history_lag"}, code: codes.NotFound},
			"no kind":                 {rule: &fanfarev1.AlertRule{Name: tenant + "/alertRules/nothing"}, code: codes.NotFound},
			"no name":                 {rule: &fanfarev1.AlertRule{}, code: codes.InvalidArgument, field: "alert_rule.name"},
			"no subscription":         {rule: &fanfarev1.AlertRule{Name: tenant + "/subscriptions/sub_x" + ratio, Threshold: 0.1}, code: codes.NotFound},
			"a ratio of 3":            {rule: &fanfarev1.AlertRule{Name: tenant + ratio, Threshold: 3}, code: codes.InvalidArgument, field: "alert_rule.threshold"},
			"a field that is none": {
				rule: &fanfarev1.AlertRule{Name: tenant + ratio}, paths: []string{"colour"}, code: codes.InvalidArgument, field: "update_mask",
			},
		} {
			_, err := update(tt.rule, tt.paths...)
			w.refused(name, err, tt.code, tt.field)
		}
		check(tenant+ratio, 0.5, "")
		system := must[*fanfarev1.ListAlertRulesResponse](w)(w.alerts().ListAlertRules(w.Context(), &fanfarev1.ListAlertRulesRequest{Parent: "tenants/fanfare-system"}))
		own := must[*fanfarev1.ListAlertRulesResponse](w)(w.alerts().ListAlertRules(w.Context(), &fanfarev1.ListAlertRulesRequest{Parent: sub.GetName()}))
		if len(system.GetAlertRules()) <= len(own.GetAlertRules()) || len(own.GetAlertRules()) < 9 {
			w.Errorf("there are %d rules of the system and %d of a subscription", len(system.GetAlertRules()), len(own.GetAlertRules()))
		}
	})
}

// A delivery that dies fires an alert, which is listed, watched and published;
// over HTTP too.
func TestAlerts(t *testing.T) {
	inWorld(t, func(w *world) {
		sub := w.subscribe(tenant, "order.dead")
		ctx := w.Context()
		watch := must[fanfarev1.AlertService_WatchAlertsClient](w)(w.alerts().WatchAlerts(ctx, &fanfarev1.WatchAlertsRequest{Parent: tenant}))
		if _, err := watch.Header(); err != nil {
			w.Fatal(err)
		}
		w.attach(0)
		w.attach(1)
		id := w.publish(tenant, "order.dead")[0]
		change := must[*fanfarev1.WatchAlertsResponse](w)(watch.Recv()).GetAlert()
		if change.GetKind() != "delivery_dead" || change.GetState() != fanfarev1.Alert_FIRING || change.GetSubscription() != sub.GetName() ||
			change.GetEvent() != tenant+"/events/"+id || change.GetLastStatusCode() != 400 {
			w.Errorf("the watcher got %v", change)
		}
		<-time.After(time.Minute)
		list := func(request *fanfarev1.ListAlertsRequest) int {
			w.Helper()
			request.Parent = tenant
			return len(must[*fanfarev1.ListAlertsResponse](w)(w.alerts().ListAlerts(ctx, request)).GetAlerts())
		}
		if list(&fanfarev1.ListAlertsRequest{}) != 1 || list(&fanfarev1.ListAlertsRequest{Kind: "backlog_age"}) != 0 ||
			list(&fanfarev1.ListAlertsRequest{Subscription: sub.GetName(), State: fanfarev1.Alert_FIRING}) != 1 ||
			list(&fanfarev1.ListAlertsRequest{State: fanfarev1.Alert_RESOLVED}) != 0 || list(&fanfarev1.ListAlertsRequest{Subscription: "sub_x"}) != 0 {
			w.Error("the lists do not hold the alert, or hold it where it is not")
		}
		_, err := w.alerts().ListAlerts(ctx, &fanfarev1.ListAlertsRequest{Parent: tenant, Kind: "endpoint_is_failing"})
		w.refused("a kind that is none", err, codes.InvalidArgument, "kind")
		got := must[*fanfarev1.Alert](w)(w.alerts().GetAlert(ctx, &fanfarev1.GetAlertRequest{Name: change.GetName()}))
		if got.GetNotifyTime() == nil {
			w.Errorf("nobody was told of %v", got)
		}
		_, err = w.alerts().GetAlert(ctx, &fanfarev1.GetAlertRequest{Name: "tenants/fanfare-system/" + strings.TrimPrefix(change.GetName(), tenant+"/")})
		w.refused("an alert of another tenant", err, codes.NotFound, "")

		published := must[*fanfarev1.ListEventsResponse](w)(w.events.ListEvents(ctx, &fanfarev1.ListEventsRequest{Parent: "tenants/fanfare-system"}))
		if events := published.GetEvents(); len(events) != 1 || events[0].GetType() != "fanfare.delivery.dead" || events[0].GetSubject() != sub.GetName() {
			w.Errorf("published were %v", published.GetEvents())
		}

		alerts := w.do(http.MethodGet, "/v1/"+tenant+"/alerts?state=FIRING", "").list(w, "alerts")
		if len(alerts) != 1 || alerts[0]["kind"] != "delivery_dead" {
			w.Errorf("over HTTP: %v", alerts)
		}
		rule := w.do(http.MethodPatch, "/v1/"+sub.GetName()+"/alertRules/delivery_dead", `{"disabled": true}`)
		if rule.code != http.StatusOK || rule.object(w)["origin"] != "subscription" {
			w.Errorf("changing a rule over HTTP: %d %s", rule.code, rule.body)
		}
		<-time.After(3 * time.Minute)
		if list(&fanfarev1.ListAlertsRequest{State: fanfarev1.Alert_RESOLVED}) != 1 {
			w.Error("an alert of a kind that was disabled is not resolved")
		}
		_, err = w.alerts().ListAlerts(ctx, &fanfarev1.ListAlertsRequest{Parent: tenant, State: 17})
		w.refused("a state that is none", err, codes.InvalidArgument, "state")
	})
}

// What others keep must say whose it is.
func TestRecordAlertsRefusals(t *testing.T) {
	inWorld(t, func(w *world) {
		partitions := linkv1.NewPartitionServiceClient(w.conn)
		const parent = "tenants/fanfare-system"
		_, err := partitions.RecordAlerts(w.Context(), &linkv1.RecordAlertsRequest{Parent: parent})
		w.refused("without a source", err, codes.InvalidArgument, "source")
		_, err = partitions.RecordAlerts(w.Context(), &linkv1.RecordAlertsRequest{Parent: parent, Source: "cluster", Changes: []*linkv1.AlertChange{
			{Id: "alr_1", Put: &linkv1.StoredAlert{Tenant: "default", Source: "cluster"}},
		}})
		w.refused("of another tenant", err, codes.InvalidArgument, "changes")
	})
}
