package serve_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// received returns all messages of a stream.
func received[M any](w *world, stream grpc.ServerStreamingClient[M]) (all []*M) {
	w.Helper()
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			w.Fatal(err)
		}
		all = append(all, message)
	}
}

// An export has what the lists have, with what they leave out.
func TestExport(t *testing.T) {
	inWorld(t, func(w *world) {
		sub, events := w.deliverAll()
		var want []*fanfarev1.ExportDeliveriesResponse
		for _, delivery := range w.listDeliveries(&fanfarev1.ListDeliveriesRequest{Parent: tenant, Subscription: sub.GetName()}) {
			attempts := must[*fanfarev1.ListAttemptsResponse](w)(w.deliveries.ListAttempts(w.Context(), &fanfarev1.ListAttemptsRequest{Parent: delivery.GetName()}))
			want = append(want, &fanfarev1.ExportDeliveriesResponse{Delivery: delivery, Attempts: attempts.GetAttempts()})
		}
		request := &fanfarev1.ExportDeliveriesRequest{Parent: tenant, Subscription: sub.GetName(), WithAttempts: true}
		got := received(w, must[grpc.ServerStreamingClient[fanfarev1.ExportDeliveriesResponse]](w)(w.deliveries.ExportDeliveries(w.Context(), request)))
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || len(want) != 4 {
			w.Errorf("deliveries (-want +got):\n%s", diff)
		}
		request = &fanfarev1.ExportDeliveriesRequest{Parent: tenant, EventType: "a.dead"}
		got = received(w, must[grpc.ServerStreamingClient[fanfarev1.ExportDeliveriesResponse]](w)(w.deliveries.ExportDeliveries(w.Context(), request)))
		if len(got) != 1 || got[0].GetDelivery().GetEvent() != events[fanfarev1.Delivery_DEAD] || len(got[0].GetAttempts()) > 0 {
			w.Errorf("deliveries of a type, without attempts: %v", got)
		}

		exported := received(w, must[grpc.ServerStreamingClient[fanfarev1.ExportEventsResponse]](w)(
			w.events.ExportEvents(w.Context(), &fanfarev1.ExportEventsRequest{Parent: tenant})))
		listed := must[*fanfarev1.ListEventsResponse](w)(w.events.ListEvents(w.Context(), &fanfarev1.ListEventsRequest{Parent: tenant}))
		if len(exported) != len(listed.GetEvents()) {
			w.Fatalf("%d events were exported, %d are listed", len(exported), len(listed.GetEvents()))
		}
		for i, one := range listed.GetEvents() {
			whole := must[*fanfarev1.Event](w)(w.events.GetEvent(w.Context(), &fanfarev1.GetEventRequest{Name: one.GetName()}))
			if diff := cmp.Diff(whole, exported[i].GetEvent(), protocmp.Transform()); diff != "" {
				w.Errorf("event %d (-want +got):\n%s", i, diff)
			}
		}
		// Over HTTP a line is a message.
		lines := strings.Split(strings.TrimSpace(string(w.do("GET", base+"/deliveries:export", "").body)), "\n")
		if len(lines) != 5 || !strings.Contains(lines[0], `"delivery"`) {
			w.Errorf("over HTTP: %q", lines)
		}
		_, err := must[grpc.ServerStreamingClient[fanfarev1.ExportDeliveriesResponse]](w)(
			w.deliveries.ExportDeliveries(w.Context(), &fanfarev1.ExportDeliveriesRequest{Parent: tenant, StatusClass: "2"})).Recv()
		w.refused("a status class there is not", err, codes.InvalidArgument, "status_class")
	})
}

// A trace leads to the event and to its deliveries.
func TestTrace(t *testing.T) {
	inWorld(t, func(w *world) {
		const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
		w.subscribe(tenant, "*")
		w.publish(tenant, "without")
		traced := &fanfarev1.Event{Id: "traced", Type: "with", Extensions: map[string]string{"traceparent": "00-" + trace + "-00f067aa0ba902b7-01"}}
		must[*fanfarev1.PublishResponse](w)(w.events.Publish(w.Context(), &fanfarev1.PublishRequest{Parent: tenant, Events: []*fanfarev1.Event{traced}}))
		deliveries := w.listDeliveries(&fanfarev1.ListDeliveriesRequest{Parent: tenant, TraceId: strings.ToUpper(trace)})
		if len(deliveries) != 1 || deliveries[0].GetEvent() != tenant+"/events/traced" || deliveries[0].GetTraceId() != trace {
			w.Errorf("deliveries of the trace: %v", deliveries)
		}
		events := must[*fanfarev1.ListEventsResponse](w)(w.events.ListEvents(w.Context(), &fanfarev1.ListEventsRequest{Parent: tenant, TraceId: trace}))
		if len(events.GetEvents()) != 1 || events.GetEvents()[0].GetId() != "traced" {
			w.Errorf("events of the trace: %v", events)
		}
	})
}

// The statistics count what the lists show.
func TestStatistics(t *testing.T) {
	inWorld(t, func(w *world) {
		sub, _ := w.deliverAll()
		<-time.After(time.Second)
		want := &fanfarev1.StatisticsPoint{}
		for _, delivery := range w.listDeliveries(&fanfarev1.ListDeliveriesRequest{Parent: tenant, Subscription: sub.GetName()}) {
			switch delivery.GetState() { //nolint:exhaustive // the others are none of this subscription's
			case fanfarev1.Delivery_DELIVERED:
				want.DeliveredCount++
			case fanfarev1.Delivery_DEAD:
				want.DeadCount++
			}
			attempts := must[*fanfarev1.ListAttemptsResponse](w)(w.deliveries.ListAttempts(w.Context(), &fanfarev1.ListAttemptsRequest{Parent: delivery.GetName()}))
			for _, attempt := range attempts.GetAttempts() {
				want.AttemptCount++
				if attempt.GetResult() != fanfarev1.Attempt_DELIVERED {
					want.FailedAttemptCount++
				}
			}
		}
		name := sub.GetName() + "/statistics"
		got := must[*fanfarev1.Statistics](w)(w.deliveries.GetStatistics(w.Context(), &fanfarev1.GetStatisticsRequest{Name: name, Step: durationpb.New(time.Minute)}))
		want.SuccessRatio = float64(want.GetAttemptCount()-want.GetFailedAttemptCount()) / float64(want.GetAttemptCount())
		rest := protocmp.IgnoreFields(&fanfarev1.StatisticsPoint{}, "start_time", "end_time", "attempts_by_class", "latency_p50", "latency_p95", "latency_p99")
		if diff := cmp.Diff(want, got.GetTotal(), protocmp.Transform(), rest); diff != "" || want.GetAttemptCount() < 3 {
			w.Errorf("total (-want +got):\n%s", diff)
		}
		var classes, attempts int64
		for _, n := range got.GetTotal().GetAttemptsByClass() {
			classes += n
		}
		for _, point := range got.GetPoints() {
			attempts += point.GetAttemptCount()
		}
		if classes != want.GetAttemptCount() || attempts != want.GetAttemptCount() || got.GetName() != name || got.GetTotal().GetLatencyP50() == nil {
			w.Errorf("%d attempts by class, %d in steps, of %d: %v", classes, attempts, want.GetAttemptCount(), got)
		}
		later := must[*fanfarev1.Statistics](w)(w.deliveries.GetStatistics(w.Context(), &fanfarev1.GetStatisticsRequest{
			Name: tenant + "/subscriptions/sub_none/statistics",
		}))
		if len(later.GetPoints()) > 0 || later.GetTotal().GetAttemptCount() > 0 || later.GetTotal().GetLatencyP50() != nil {
			w.Errorf("of a subscription without any: %v", later)
		}
		_, err := w.deliveries.GetStatistics(w.Context(), &fanfarev1.GetStatisticsRequest{Name: sub.GetName()})
		w.refused("a name of no statistics", err, codes.InvalidArgument, "name")
	})
}
