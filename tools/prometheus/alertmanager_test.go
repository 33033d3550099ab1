package prometheus_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-openapi/strfmt"
	"github.com/prometheus/alertmanager/api/v2/models"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	"github.com/fanfare-dev/fanfare/coordinator/notify"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// What Alertmanager is told is what the models of its own API take.
func TestAlertmanagerTakesAlerts(t *testing.T) {
	received := make(chan models.PostableAlerts, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/api/v2/alerts" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("got %s %s with %s", r.Method, r.URL.Path, r.Header.Get("Content-Type"))
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		var alerts models.PostableAlerts
		if err := json.Unmarshal(body, &alerts); err != nil {
			t.Errorf("decoding %s: %v", body, err)
		}
		if err := alerts.Validate(strfmt.Default); err != nil {
			t.Errorf("%s is not valid: %v", body, err)
		}
		received <- alerts
	}))
	defer server.Close()
	listener, err := notify.NewAlertmanager(server.URL, server.Client(), notify.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- listener.Run(ctx) }()
	begin := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	listener.Tell("partitions/0", alert.Notification{Group: "tenants/acme", Alerts: []*fanfarev1.Alert{
		{
			Name: "tenants/acme/alerts/alr_1", Kind: "endpoint_disabled", Severity: "critical", State: fanfarev1.Alert_FIRING,
			Subscription: "tenants/acme/subscriptions/sub_1", Summary: "it is disabled", StartTime: timestamppb.New(begin),
			Url: "https://example.com/hook", LastStatusCode: 503, LastErrorClass: "status", Link: "https://fanfare.example.com/v1/tenants/acme/alerts/alr_1",
		},
		{
			Name: "tenants/fanfare-system/alerts/alr_2", Kind: "publish_refused", Severity: "critical", State: fanfarev1.Alert_RESOLVED,
			Object: "partitions/3", Summary: "it refused events", StartTime: timestamppb.New(begin), EndTime: timestamppb.New(begin.Add(time.Minute)),
		},
	}})
	alerts := <-received
	stop()
	<-ended
	if len(alerts) != 2 {
		t.Fatalf("%d alerts came, want 2", len(alerts))
	}
	fires, over := alerts[0], alerts[1]
	if fires.Labels["alertname"] != "FanfareEndpointDisabled" || fires.Labels["subscription"] != "tenants/acme/subscriptions/sub_1" ||
		fires.GeneratorURL.String() != "https://fanfare.example.com/v1/tenants/acme/alerts/alr_1" ||
		!time.Time(fires.StartsAt).Equal(begin.Truncate(time.Millisecond)) && !time.Time(fires.StartsAt).Equal(begin) ||
		time.Until(time.Time(fires.EndsAt)) < time.Minute {
		t.Errorf("what fires is %+v", fires)
	}
	if end := time.Time(over.EndsAt); end.After(time.Now()) || over.Labels["object"] != "partitions/3" {
		t.Errorf("what is resolved is %+v", over)
	}
}
