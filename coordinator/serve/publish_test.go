package serve_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/internal/eventlog"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func TestPublish(t *testing.T) {
	inWorld(t, func(w *world) {
		must[*fanfarev1.Tenant](w)(w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{TenantId: "acme"}))
		publish := func(parent string, ids ...string) (duplicates []bool) {
			request := &fanfarev1.PublishRequest{Parent: parent}
			for _, id := range ids {
				request.Events = append(request.Events, &fanfarev1.Event{Id: id, Type: "a"})
			}
			response := must[*fanfarev1.PublishResponse](w)(w.events.Publish(w.Context(), request))
			for i, result := range response.GetResults() {
				if result.GetId() != ids[i] {
					w.Errorf("result %d is of %q, want %q", i, result.GetId(), ids[i])
				}
				duplicates = append(duplicates, result.GetDuplicate())
			}
			return duplicates
		}
		for _, step := range []struct {
			what   string
			parent string
			ids    []string
			want   []bool
		}{
			{"new ones, one of them twice", tenant, []string{"e1", "e2", "e1"}, []bool{false, false, true}},
			{"old and new", tenant, []string{"e2", "e3"}, []bool{true, false}},
			{"the same ids of another tenant", "tenants/acme", []string{"e1", "e2"}, []bool{false, false}},
		} {
			if got := publish(step.parent, step.ids...); !slices.Equal(got, step.want) {
				w.Errorf("%s: duplicates are %v, want %v", step.what, got, step.want)
			}
		}
		<-time.After(24*time.Hour + time.Minute)
		publish(tenant, "later") // the window moves with what is written
		if got := publish(tenant, "e1"); got[0] {
			w.Error("an id is a duplicate after the idempotency window")
		}
	})
}

func TestPublishErrors(t *testing.T) {
	inWorld(t, func(w *world) {
		good := &fanfarev1.Event{Id: "good", Type: "a"}
		for _, tt := range []struct {
			name   string
			parent string
			events []*fanfarev1.Event
			code   codes.Code
			field  string
		}{
			{"no parent", "", []*fanfarev1.Event{good}, codes.InvalidArgument, "parent"},
			{"another resource", "tenants/default/events/e", []*fanfarev1.Event{good}, codes.InvalidArgument, "parent"},
			{"a tenant that cannot be", "tenants/Acme", []*fanfarev1.Event{good}, codes.InvalidArgument, "parent"},
			{"a tenant that is not there", "tenants/nobody", []*fanfarev1.Event{good}, codes.NotFound, ""},
			{"no events", tenant, nil, codes.InvalidArgument, "events"},
			{"a wrong event behind a good one", tenant, []*fanfarev1.Event{good, {Type: "a b"}}, codes.InvalidArgument, "events[1].type"},
			{"a wrong extension", tenant, []*fanfarev1.Event{{Type: "a", Extensions: map[string]string{"a": "\n"}}}, codes.InvalidArgument, "events[0].extensions.a"},
			{"an event that is too long", tenant, []*fanfarev1.Event{{Type: "a", DataContentType: "a/b", Data: make([]byte, 256<<10)}}, codes.InvalidArgument, "events[0].data"},
			{"more than 8 MiB", tenant, slices.Repeat([]*fanfarev1.Event{{Type: "a", DataContentType: "a/b", Data: make([]byte, 255<<10)}}, 33), codes.InvalidArgument, "events"},
		} {
			_, err := w.events.Publish(w.Context(), &fanfarev1.PublishRequest{Parent: tt.parent, Events: tt.events})
			w.refused(tt.name, err, tt.code, tt.field)
		}
		if listed := must[*fanfarev1.ListEventsResponse](w)(w.events.ListEvents(w.Context(), &fanfarev1.ListEventsRequest{Parent: tenant})); len(listed.GetEvents()) > 0 {
			w.Errorf("stored all the same: %v", listed.GetEvents())
		}
	})
}

// An error of the log says what it means for the events: none is stored, or
// nobody knows. Publishing them again with the same ids is safe.
func TestPublishWhenTheLogFails(t *testing.T) {
	inWorld(t, func(w *world) {
		request := &fanfarev1.PublishRequest{Parent: tenant, Events: []*fanfarev1.Event{{Id: "e1", Type: "a"}}}
		w.logs.RefuseForSpace(true)
		for range 3 {
			_, err := w.events.Publish(w.Context(), request)
			w.refused("no space", err, codes.ResourceExhausted, "")
			if retry := retryOf(err); retry != 10*time.Second {
				w.Errorf("no space: try again after %s, want 10s", retry)
			}
		}
		_, err := w.subscriptions.CreateSubscription(w.Context(), &fanfarev1.CreateSubscriptionRequest{
			Parent: tenant, Subscription: &fanfarev1.Subscription{Url: "https://example.com"},
		})
		w.refused("no space for a subscription", err, codes.ResourceExhausted, "")
		w.logs.RefuseForSpace(false)
		<-time.After(10 * time.Second)
		if response := must[*fanfarev1.PublishResponse](w)(w.events.Publish(w.Context(), request)); response.GetResults()[0].GetDuplicate() {
			w.Error("what was refused for want of space was stored")
		}

		// The record is written, but the answer comes after the deadline.
		request.Events[0].Id = "e2"
		for partition := range partitions {
			w.logs.FailNext(partition, eventlog.LoseReply)
		}
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		_, err = w.events.Publish(ctx, request)
		w.refused("no answer", err, codes.DeadlineExceeded, "")
		if response := must[*fanfarev1.PublishResponse](w)(w.events.Publish(w.Context(), request)); !response.GetResults()[0].GetDuplicate() {
			w.Error("what had been stored was stored again")
		}
	})
}

func retryOf(err error) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return retry.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

func TestEventsOfTheHistory(t *testing.T) {
	inWorld(t, func(w *world) {
		given := &fanfarev1.Event{
			Id: "e:1%2F?#", Type: "order.created", Source: "/shop", Subject: "42", Time: timestamppb.New(time.Unix(1e9, 5).UTC()),
			DataContentType: "text/plain", Data: []byte("hello"), DataSchema: "https://example.com/s", OrderingKey: "k",
			Extensions: map[string]string{"a": "b"},
		}
		published := time.Now()
		must[*fanfarev1.PublishResponse](w)(w.events.Publish(w.Context(), &fanfarev1.PublishRequest{Parent: tenant, Events: []*fanfarev1.Event{given}}))
		got := must[*fanfarev1.Event](w)(w.events.GetEvent(w.Context(), &fanfarev1.GetEventRequest{Name: tenant + "/events/" + given.GetId()}))
		given.Name, given.PublishTime = tenant+"/events/"+given.GetId(), timestamppb.New(published)
		if diff := cmp.Diff(given, got, protocmp.Transform()); diff != "" {
			w.Errorf("event (-want +got):\n%s", diff)
		}
		for name, code := range map[string]codes.Code{
			tenant + "/events/none": codes.NotFound, "tenants/nobody/events/e": codes.NotFound,
			"events/e": codes.InvalidArgument, "": codes.InvalidArgument,
		} {
			_, err := w.events.GetEvent(w.Context(), &fanfarev1.GetEventRequest{Name: name})
			field := ""
			if code == codes.InvalidArgument {
				field = "name"
			}
			w.refused("GetEvent "+name, err, code, field)
		}
	})
}

func TestListEvents(t *testing.T) {
	inWorld(t, func(w *world) {
		start := timestamppb.Now()
		var ids []string // newest first
		for i := range 55 {
			<-time.After(time.Second)
			eventType := "odd"
			if i%2 == 0 {
				eventType = "even"
			}
			ids = append(w.publish(tenant, eventType), ids...)
		}
		at := func(seconds int64) *timestamppb.Timestamp {
			return &timestamppb.Timestamp{Seconds: start.GetSeconds() + seconds, Nanos: start.GetNanos()}
		}
		for _, tt := range []struct {
			name    string
			request *fanfarev1.ListEventsRequest
			want    []string
			more    bool
		}{
			{"50 by default", &fanfarev1.ListEventsRequest{}, ids[:50], true},
			{"some", &fanfarev1.ListEventsRequest{PageSize: 3}, ids[:3], true},
			{"all", &fanfarev1.ListEventsRequest{PageSize: 55}, ids, false},
			{"more than there are", &fanfarev1.ListEventsRequest{PageSize: 1 << 30}, ids, false},
			{"of a type", &fanfarev1.ListEventsRequest{Type: "odd", PageSize: 3}, []string{ids[1], ids[3], ids[5]}, true},
			{"of no type there is", &fanfarev1.ListEventsRequest{Type: "od"}, nil, false},
			{"from a time", &fanfarev1.ListEventsRequest{StartTime: at(53)}, ids[:3], false},
			{"until a time", &fanfarev1.ListEventsRequest{EndTime: at(3)}, ids[53:], false},
			{"between two", &fanfarev1.ListEventsRequest{StartTime: at(3), EndTime: at(5), Type: "even"}, []string{ids[52]}, false},
			{"between none", &fanfarev1.ListEventsRequest{StartTime: at(5), EndTime: at(3)}, nil, false},
		} {
			tt.request.Parent = tenant
			response := must[*fanfarev1.ListEventsResponse](w)(w.events.ListEvents(w.Context(), tt.request))
			var got []string
			for _, event := range response.GetEvents() {
				got = append(got, event.GetId())
				if event.GetData() != nil || event.GetPublishTime() == nil || event.GetName() != tenant+"/events/"+event.GetId() {
					w.Errorf("%s: listed %v", tt.name, event)
				}
			}
			if !slices.Equal(got, tt.want) || (response.GetNextPageToken() != "") != tt.more {
				w.Errorf("%s: %v, and more: %q; want %v, and more: %t", tt.name, got, response.GetNextPageToken(), tt.want, tt.more)
			}
		}
		w.listEventPages(ids)
		w.listEventErrors()
	})
}

// listEventPages takes all pages one by one, while more is published.
func (w *world) listEventPages(want []string) {
	w.Helper()
	request := &fanfarev1.ListEventsRequest{Parent: tenant, PageSize: 10}
	var got []string
	for page := 0; page == 0 || request.GetPageToken() != ""; page++ {
		response := must[*fanfarev1.ListEventsResponse](w)(w.events.ListEvents(w.Context(), request))
		for _, event := range response.GetEvents() {
			got = append(got, event.GetId())
		}
		request.PageToken = response.GetNextPageToken()
		w.publish(tenant, "late")
	}
	if !slices.Equal(got, want) {
		w.Errorf("the pages hold %v, want %v", got, want)
	}
}

func (w *world) listEventErrors() {
	w.Helper()
	token := must[*fanfarev1.ListEventsResponse](w)(w.events.ListEvents(w.Context(), &fanfarev1.ListEventsRequest{Parent: tenant, PageSize: 1})).GetNextPageToken()
	for _, tt := range []struct {
		name    string
		request *fanfarev1.ListEventsRequest
		field   string
	}{
		{"a negative size", &fanfarev1.ListEventsRequest{Parent: tenant, PageSize: -1}, "page_size"},
		{"a token that is none", &fanfarev1.ListEventsRequest{Parent: tenant, PageToken: "x"}, "page_token"},
		{"a token of another list", &fanfarev1.ListEventsRequest{Parent: tenant, PageToken: token, Type: "odd"}, "page_token"},
		{"a start that is none", &fanfarev1.ListEventsRequest{Parent: tenant, StartTime: &timestamppb.Timestamp{Nanos: -1}}, "start_time"},
		{"an end that is none", &fanfarev1.ListEventsRequest{Parent: tenant, EndTime: &timestamppb.Timestamp{Seconds: 1 << 60}}, "end_time"},
		{"no parent", &fanfarev1.ListEventsRequest{}, "parent"},
	} {
		_, err := w.events.ListEvents(w.Context(), tt.request)
		w.refused(tt.name, err, codes.InvalidArgument, tt.field)
	}
}

type publishStream = grpc.BidiStreamingClient[fanfarev1.PublishStreamRequest, fanfarev1.PublishStreamResponse]

// sendOn sends requests of one event each.
func (w *world) sendOn(stream publishStream, ids ...string) {
	w.Helper()
	for _, id := range ids {
		if err := stream.Send(&fanfarev1.PublishStreamRequest{Events: []*fanfarev1.Event{{Id: id, Type: "a"}}}); err != nil {
			w.Fatal(err)
		}
	}
}

// Requests may be sent without waiting, many more than are under way at once;
// their answers come in order.
func TestPublishStream(t *testing.T) {
	inWorld(t, func(w *world) {
		const requests = 500
		w.logs.DelayAppends(10 * time.Millisecond)
		stream := must[publishStream](w)(w.events.PublishStream(w.Context()))
		sent := make(chan error, 1)
		go func() {
			for i := range requests {
				request := &fanfarev1.PublishStreamRequest{Events: []*fanfarev1.Event{
					{Id: fmt.Sprint("a", i), Type: "a"}, {Id: fmt.Sprint("b", i/2), Type: "b"},
				}}
				if i == 0 {
					request.Parent = tenant
				}
				if err := stream.Send(request); err != nil {
					sent <- err
					return
				}
			}
			sent <- stream.CloseSend()
		}()
		for i := range requests {
			got := must[*fanfarev1.PublishStreamResponse](w)(stream.Recv())
			want := &fanfarev1.PublishStreamResponse{Results: []*fanfarev1.PublishResult{
				{Id: fmt.Sprint("a", i)}, {Id: fmt.Sprint("b", i/2), Duplicate: i%2 == 1},
			}}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				w.Fatalf("answer %d (-want +got):\n%s", i, diff)
			}
		}
		if err := <-sent; err != nil {
			w.Error(err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			w.Errorf("the stream ended with %v", err)
		}
	})
}

// A request that is wrong ends the stream with its error, after the answers to
// those before it; those behind it are not stored.
func TestPublishStreamEndsWithTheFirstError(t *testing.T) {
	for name, tt := range map[string]struct {
		wrong *fanfarev1.PublishStreamRequest
		code  codes.Code
		field string
	}{
		"a wrong event":  {&fanfarev1.PublishStreamRequest{Events: []*fanfarev1.Event{{}}}, codes.InvalidArgument, "events[0].type"},
		"no events":      {&fanfarev1.PublishStreamRequest{}, codes.InvalidArgument, "events"},
		"another tenant": {&fanfarev1.PublishStreamRequest{Parent: "tenants/nobody", Events: []*fanfarev1.Event{{Type: "a"}}}, codes.InvalidArgument, "parent"},
		"a wrong tenant": {&fanfarev1.PublishStreamRequest{Parent: "nobody", Events: []*fanfarev1.Event{{Type: "a"}}}, codes.InvalidArgument, "parent"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.logs.DelayAppends(time.Second)
				stream := must[publishStream](w)(w.events.PublishStream(w.Context()))
				if err := stream.Send(&fanfarev1.PublishStreamRequest{Parent: tenant, Events: []*fanfarev1.Event{{Id: "e0", Type: "a"}}}); err != nil {
					w.Fatal(err)
				}
				w.sendOn(stream, "e1", "e2")
				if err := stream.Send(tt.wrong); err != nil {
					w.Fatal(err)
				}
				w.sendOn(stream, "e4", "e5") // in time: nothing has been answered yet
				for i := range 3 {
					if got := must[*fanfarev1.PublishStreamResponse](w)(stream.Recv()); got.GetResults()[0].GetId() != fmt.Sprint("e", i) {
						w.Errorf("answer %d is %v", i, got)
					}
				}
				_, err := stream.Recv()
				w.refused(name, err, tt.code, tt.field)
				for id, want := range map[string]codes.Code{"e2": codes.OK, "e4": codes.NotFound, "e5": codes.NotFound} {
					if _, err := w.events.GetEvent(w.Context(), &fanfarev1.GetEventRequest{Name: tenant + "/events/" + id}); status.Code(err) != want {
						w.Errorf("event %s: %v, want %s", id, err, want)
					}
				}
			})
		})
	}
}

func TestPublishStreamWithoutParent(t *testing.T) {
	inWorld(t, func(w *world) {
		stream := must[publishStream](w)(w.events.PublishStream(w.Context()))
		w.sendOn(stream, "e1")
		_, err := stream.Recv()
		w.refused("no parent", err, codes.InvalidArgument, "parent")
	})
}

// When the log refuses a request, the stream ends at once, though the producer
// has sent no more and waits. It used to hang until the producer did something.
func TestPublishStreamEndsWhileTheProducerWaits(t *testing.T) {
	inWorld(t, func(w *world) {
		stream := must[publishStream](w)(w.events.PublishStream(w.Context()))
		if err := stream.Send(&fanfarev1.PublishStreamRequest{Parent: tenant, Events: []*fanfarev1.Event{{Id: "e0", Type: "a"}}}); err != nil {
			w.Fatal(err)
		}
		must[*fanfarev1.PublishStreamResponse](w)(stream.Recv())
		w.logs.RefuseForSpace(true)
		w.sendOn(stream, "e1")
		ended := make(chan error, 1)
		go func() { _, err := stream.Recv(); ended <- err }()
		select {
		case err := <-ended:
			w.refused("no space", err, codes.ResourceExhausted, "")
		case <-time.After(time.Minute):
			w.Error("the stream has not ended")
			if err := stream.CloseSend(); err != nil {
				w.Error(err)
			}
			w.Error(<-ended)
		}
	})
}

// The error a producer gets is that of the request that failed first, not of a
// later one that was wrong in another way.
func TestPublishStreamErrorsKeepTheirOrder(t *testing.T) {
	inWorld(t, func(w *world) {
		w.logs.RefuseForSpace(true)
		w.logs.DelayAppends(time.Second)
		stream := must[publishStream](w)(w.events.PublishStream(w.Context()))
		if err := stream.Send(&fanfarev1.PublishStreamRequest{Parent: tenant, Events: []*fanfarev1.Event{{Id: "e0", Type: "a"}}}); err != nil {
			w.Fatal(err)
		}
		synctest.Wait() // it is on its way into the log
		if err := stream.Send(&fanfarev1.PublishStreamRequest{Events: []*fanfarev1.Event{{Type: "a b"}}}); err != nil {
			w.Fatal(err)
		}
		_, err := stream.Recv()
		w.refused("the first of two errors", err, codes.ResourceExhausted, "")
	})
}

// Streams that break off with requests under way give back what they held of
// the leader's memory: 64 MiB in all. It used to be lost.
func TestBrokenStreamsGiveBackTheirMemory(t *testing.T) {
	inWorld(t, func(w *world) {
		w.logs.DelayAppends(time.Second) // so that all of a stream are under way when the first is refused
		large := &fanfarev1.PublishStreamRequest{Parent: tenant}
		for range 30 {
			large.Events = append(large.Events, &fanfarev1.Event{Type: "a", DataContentType: "a/b", Data: make([]byte, 255<<10)})
		}
		small := &fanfarev1.PublishStreamRequest{Parent: tenant, Events: []*fanfarev1.Event{{Type: "a"}}}
		for range 6 { // with 15 MiB each
			w.logs.RefuseForSpace(true)
			stream := must[publishStream](w)(w.events.PublishStream(w.Context()))
			for _, request := range []*fanfarev1.PublishStreamRequest{small, large, large} {
				if err := stream.Send(request); err != nil && !errors.Is(err, io.EOF) { // EOF: it has ended
					w.Fatal(err)
				}
			}
			if err := stream.CloseSend(); err != nil {
				w.Fatal(err)
			}
			for {
				if _, err := stream.Recv(); err != nil {
					w.refused("no space", err, codes.ResourceExhausted, "")
					break
				}
			}
			w.logs.RefuseForSpace(false)
			<-time.After(time.Minute)
		}
		ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
		defer cancel()
		if _, err := w.events.Publish(ctx, &fanfarev1.PublishRequest{Parent: tenant, Events: large.GetEvents()}); err != nil {
			w.Errorf("publishing when nothing else is under way: %v", err)
		}
	})
}
