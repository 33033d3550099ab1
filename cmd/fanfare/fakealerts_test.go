package main

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// fakeAlerts is a fake's AlertService: one alert that fires and one that was
// resolved, and rules that it remembers.
type fakeAlerts struct {
	fanfarev1.UnimplementedAlertServiceServer

	fake  *fake
	rules map[string][]*fanfarev1.AlertRule // guarded by fake.mu; by parent
}

func (f *fakeAlerts) alerts(parent string) []*fanfarev1.Alert {
	at := &timestamppb.Timestamp{Seconds: 1767366000}
	return []*fanfarev1.Alert{
		{
			Name: parent + "/alerts/alr_1", Kind: "endpoint_failing", Severity: "warning", State: fanfarev1.Alert_FIRING,
			Subscription: parent + "/subscriptions/sub_1", Summary: "9 attempts in a row have failed", StartTime: at, NotifyTime: at,
			Url: "https://example.com/", Event: parent + "/events/e1", TraceId: "0af7651916cd43dd8448eb211c80319c",
			LastStatusCode: 503, LastErrorClass: "status", LastError: "busy\x1b[2J",
		},
		{
			Name: parent + "/alerts/alr_2", Kind: "delivery_dead", Severity: "warning", State: fanfarev1.Alert_RESOLVED,
			Subscription: parent + "/subscriptions/sub_2", Summary: "1 deliveries were given up", StartTime: at, EndTime: at,
		},
	}
}

func (f *fakeAlerts) ListAlerts(_ context.Context, request *fanfarev1.ListAlertsRequest) (*fanfarev1.ListAlertsResponse, error) {
	response := new(fanfarev1.ListAlertsResponse)
	for _, a := range f.alerts(request.GetParent()) {
		if request.GetState() == fanfarev1.Alert_STATE_UNSPECIFIED || request.GetState() == a.GetState() {
			response.Alerts = append(response.Alerts, a)
		}
	}
	return response, nil
}

func (f *fakeAlerts) GetAlert(_ context.Context, request *fanfarev1.GetAlertRequest) (*fanfarev1.Alert, error) {
	parent, _, _ := strings.Cut(request.GetName(), "/alerts/")
	for _, a := range f.alerts(parent) {
		if a.GetName() == request.GetName() {
			return a, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "there is no %s", request.GetName())
}

func (f *fakeAlerts) WatchAlerts(request *fanfarev1.WatchAlertsRequest, stream grpc.ServerStreamingServer[fanfarev1.WatchAlertsResponse]) error {
	for _, a := range f.alerts(request.GetParent()) {
		if err := stream.Send(&fanfarev1.WatchAlertsResponse{Alert: a}); err != nil {
			return err
		}
	}
	return status.Error(codes.PermissionDenied, "ended by the test")
}

func (f *fakeAlerts) rule(name string) alert.Rule {
	parent, kind, _ := strings.Cut(name, "/alertRules/")
	return alert.Rules{Tenant: f.rules[parent]}.Of(alert.Kind(kind))
}

func (f *fakeAlerts) GetAlertRule(_ context.Context, request *fanfarev1.GetAlertRuleRequest) (*fanfarev1.AlertRule, error) {
	parent, _, _ := strings.Cut(request.GetName(), "/alertRules/")
	return f.rule(request.GetName()).Show(parent), nil
}

func (f *fakeAlerts) ListAlertRules(_ context.Context, request *fanfarev1.ListAlertRulesRequest) (*fanfarev1.ListAlertRulesResponse, error) {
	response := new(fanfarev1.ListAlertRulesResponse)
	for _, kind := range alert.Kinds(false) {
		response.AlertRules = append(response.AlertRules, f.rule(request.GetParent()+"/alertRules/"+string(kind)).Show(request.GetParent()))
	}
	return response, nil
}

func (f *fakeAlerts) UpdateAlertRule(_ context.Context, request *fanfarev1.UpdateAlertRuleRequest) (*fanfarev1.AlertRule, error) {
	name := request.GetAlertRule().GetName()
	parent, _, _ := strings.Cut(name, "/alertRules/")
	changed, err := f.rule(name).Changed(request.GetAlertRule(), request.GetUpdateMask().GetPaths())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "alert_rule."+err.Error())
	}
	changed.Origin = alert.OfTenant
	f.rules[parent] = changed.With(f.rules[parent])
	return changed.Show(parent), nil
}

func (f *fakeAlerts) DeleteAlertRule(_ context.Context, request *fanfarev1.DeleteAlertRuleRequest) (*emptypb.Empty, error) {
	parent, kind, _ := strings.Cut(request.GetName(), "/alertRules/")
	f.rules[parent] = alert.Without(f.rules[parent], alert.Kind(kind))
	return &emptypb.Empty{}, nil
}
