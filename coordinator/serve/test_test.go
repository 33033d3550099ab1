package serve_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// testedEndpoint is what the coordinator's own requests meet. It answers by a
// function of the event; 204 if there is none.
type testedEndpoint struct {
	mu       sync.Mutex
	answer   func(*fanfarev1.Event) (status int32, body string) // guarded by mu
	requests []*linkv1.Endpoint                                 // guarded by mu; what was sent to
	events   []*fanfarev1.Event                                 // guarded by mu

	allowed    uint32      // guarded by mu; what it allows, if it consents
	refusal    error       // guarded by mu; nil: it consents
	handshakes []handshake // guarded by mu; for which it was asked
}

type handshake struct{ url, origin string }

func (e *testedEndpoint) Handshake(_ context.Context, endpoint *linkv1.Endpoint, origin string) (*fanfarev1.WebhookHandshake, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.handshakes = append(e.handshakes, handshake{endpoint.GetSubscription().GetUrl(), origin})
	return &fanfarev1.WebhookHandshake{
		RequestsPerMinute: endpoint.GetSubscription().GetHandshake().GetRequestsPerMinute(), Origin: origin, AllowedRequestsPerMinute: e.allowed,
	}, e.refusal
}

func (e *testedEndpoint) Test(_ context.Context, endpoint *linkv1.Endpoint, dispatch *linkv1.Dispatch) *fanfarev1.SendTestResponse {
	event := new(fanfarev1.Event)
	if err := proto.Unmarshal(dispatch.GetEvent(), event); err != nil {
		return &fanfarev1.SendTestResponse{ErrorClass: "payload", Error: err.Error()}
	}
	e.mu.Lock()
	e.requests, e.events = append(e.requests, proto.CloneOf(endpoint)), append(e.events, event)
	answer := e.answer
	e.mu.Unlock()
	sent := &fanfarev1.SendTestResponse{EventId: event.GetId(), Url: endpoint.GetSubscription().GetUrl(), StatusCode: 204}
	if answer != nil {
		status, body := answer(event)
		sent.StatusCode, sent.ResponseBody = status, []byte(body)
	}
	if sent.GetStatusCode() > 299 {
		sent.ErrorClass, sent.Error = "status", "the endpoint refused"
	}
	return sent
}

func (e *testedEndpoint) answers(answer func(*fanfarev1.Event) (int32, string)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer = answer
}

// last returns what was sent last, and where.
func (e *testedEndpoint) last() (*linkv1.Endpoint, *fanfarev1.Event, int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.events); n > 0 {
		return e.requests[n-1], e.events[n-1], n
	}
	return nil, nil, 0
}

func TestSendTest(t *testing.T) {
	inWorld(t, func(w *world) {
		sub := must[*fanfarev1.Subscription](w)(w.subscriptions.CreateSubscription(w.Context(), &fanfarev1.CreateSubscriptionRequest{
			Parent: tenant, Subscription: &fanfarev1.Subscription{Url: "https://example.com/hook", Authentication: bearer("a-token")},
		}))
		sent := must[*fanfarev1.SendTestResponse](w)(w.subscriptions.SendTest(w.Context(), &fanfarev1.SendTestRequest{Name: sub.GetName()}))
		endpoint, event, count := w.tested.last()
		if sent.GetStatusCode() != 204 || count != 1 || event.GetType() != "fanfare.test" || string(event.GetData()) != `{"test":true}` || event.GetId() != sent.GetEventId() {
			w.Errorf("sent %v, got %v", event, sent)
		}
		if endpoint.GetSecrets()[0] != sub.GetSecret() || endpoint.GetCredentials().GetAuthentication().GetBearer().GetToken() != "a-token" {
			w.Errorf("sent with %v", endpoint)
		}
		w.do("POST", "/v1/"+sub.GetName()+":sendTest", `{"eventType":"order.created","data":"eyJhIjoxfQ=="}`)
		if _, event, _ := w.tested.last(); event.GetType() != "order.created" || string(event.GetData()) != `{"a":1}` {
			w.Errorf("over HTTP: %v", event)
		}
		_, err := w.subscriptions.SendTest(w.Context(), &fanfarev1.SendTestRequest{Name: tenant + "/subscriptions/sub_x"})
		w.refused("another", err, codes.NotFound, "")
		_, err = w.subscriptions.SendTest(w.Context(), &fanfarev1.SendTestRequest{Name: sub.GetName(), EventType: "not a type"})
		w.refused("a type that is none", err, codes.InvalidArgument, "type")
		_, err = w.subscriptions.SendTest(w.Context(), &fanfarev1.SendTestRequest{Name: sub.GetName(), Data: []byte("{")})
		w.refused("data that is no JSON", err, codes.InvalidArgument, "data")
		if events := w.do("GET", "/v1/"+tenant+"/events", "").list(w, "events"); len(events) != 0 {
			w.Errorf("tests are kept: %v", events)
		}
	})
}

// An endpoint that does not do what is asked of it is not subscribed, nor moved
// to.
func TestVerification(t *testing.T) {
	challenge := func(e *fanfarev1.Event) string {
		var data struct{ Challenge string }
		if err := json.Unmarshal(e.GetData(), &data); err != nil {
			return err.Error()
		}
		return data.Challenge
	}
	inWorld(t, func(w *world) {
		create := func(way string) (*fanfarev1.Subscription, error) {
			return w.subscriptions.CreateSubscription(w.Context(), &fanfarev1.CreateSubscriptionRequest{
				Parent: tenant, Subscription: &fanfarev1.Subscription{Url: "https://example.com/hook", Verification: way},
			})
		}
		for _, test := range []struct {
			name, way string
			answer    func(*fanfarev1.Event) (int32, string)
			ok        bool
		}{
			{"pong", "ping", func(*fanfarev1.Event) (int32, string) { return 200, "" }, true},
			{"no pong", "ping", func(*fanfarev1.Event) (int32, string) { return 404, "" }, false},
			{"echo", "challenge", func(e *fanfarev1.Event) (int32, string) { return 200, challenge(e) + "\n" }, true},
			{"echo in JSON", "challenge", func(e *fanfarev1.Event) (int32, string) { return 200, `{"challenge":"` + challenge(e) + `"}` }, true},
			{"part of it", "challenge", func(e *fanfarev1.Event) (int32, string) { return 200, challenge(e)[1:] }, false},
			{"the request's body", "challenge", func(e *fanfarev1.Event) (int32, string) { return 200, "data: " + string(e.GetData()) }, false},
			{"nothing", "challenge", func(*fanfarev1.Event) (int32, string) { return 200, "" }, false},
			{"echo with 500", "challenge", func(e *fanfarev1.Event) (int32, string) { return 500, challenge(e) }, false},
		} {
			w.tested.answers(test.answer)
			_, err := create(test.way)
			if test.ok {
				w.answered(test.name, err, codes.OK, "")
			} else {
				w.refused(test.name, err, codes.FailedPrecondition, "subscription.url")
			}
		}
		_, err := create("telepathy")
		w.refused("another way", err, codes.InvalidArgument, "subscription.verification")
		if got := w.do("GET", "/v1/"+tenant+"/subscriptions", "").list(w, "subscriptions"); len(got) != 3 {
			w.Errorf("there are %d subscriptions", len(got))
		}

		w.tested.answers(nil)
		sub := must[*fanfarev1.Subscription](w)(create("ping"))
		_, _, before := w.tested.last()
		w.tested.answers(func(*fanfarev1.Event) (int32, string) { return 404, "" })
		move := &fanfarev1.UpdateSubscriptionRequest{Subscription: &fanfarev1.Subscription{Name: sub.GetName(), Url: "https://example.com/other"}}
		_, err = w.subscriptions.UpdateSubscription(w.Context(), move)
		w.refused("moved to what does not answer", err, codes.FailedPrecondition, "subscription.url")
		w.tested.answers(nil)
		must[*fanfarev1.Subscription](w)(w.subscriptions.UpdateSubscription(w.Context(), move))
		must[*fanfarev1.Subscription](w)(w.subscriptions.UpdateSubscription(w.Context(), &fanfarev1.UpdateSubscriptionRequest{
			Subscription: &fanfarev1.Subscription{Name: sub.GetName(), Description: "another"},
		}))
		endpoint, event, count := w.tested.last()
		if count != before+2 || event.GetType() != "fanfare.ping" || !strings.HasSuffix(endpoint.GetSubscription().GetUrl(), "/other") {
			w.Errorf("after %d requests more: %v to %v", count-before, event, endpoint)
		}
	})
}
