package serve

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// The ways in which an endpoint is verified, and the types of what is sent.
const (
	verifyChallenge = "challenge"
	verifyPing      = "ping"
	challengeType   = "fanfare.challenge"
	pingType        = "fanfare.ping"
	testType        = "fanfare.test"
)

// SendTest implements SubscriptionService.
func (s *Server) SendTest(ctx context.Context, request *fanfarev1.SendTestRequest) (*fanfarev1.SendTestResponse, error) {
	tenant, id, err := parseChild("name", request.GetName(), "subscriptions")
	if err != nil {
		return nil, err
	}
	event := &fanfarev1.Event{Type: request.GetEventType(), Data: request.GetData(), DataContentType: request.GetDataContentType()}
	if event.GetType() == "" {
		event.Type = testType
	}
	if len(event.GetData()) == 0 && isJSONType(event.GetDataContentType()) {
		event.Data = []byte(`{"test":true}`)
	}
	if err := s.canTest("name"); err != nil {
		return nil, err
	}
	var stored *linkv1.StoredSubscription
	err = s.read(ctx, tenant, func(l *ledger.Ledger) {
		if sub := l.SubscriptionByID(tenant, id); sub != nil {
			stored = sub.Stored
		}
	})
	if err != nil {
		return nil, err
	}
	if stored == nil {
		return nil, notFound("subscription", request.GetName())
	}
	stored = proto.CloneOf(stored)
	if err := s.unmask(stored); err != nil {
		return nil, err
	}
	return s.test(ctx, stored, event)
}

// canTest says whether anything can be sent from here.
func (s *Server) canTest(field string) error {
	if s.Tester == nil {
		return &Error{codes.FailedPrecondition, field, "cannot be sent to by this coordinator"}
	}
	return nil
}

// test sends an event to a subscription whose credentials are in the clear.
func (s *Server) test(ctx context.Context, stored *linkv1.StoredSubscription, event *fanfarev1.Event) (*fanfarev1.SendTestResponse, error) {
	tenant := ledger.TenantID(stored.GetTenant())
	now := time.Now()
	logged, err := logEvent(tenant, event, now)
	if err != nil {
		return nil, err
	}
	endpoint := &linkv1.Endpoint{
		Tenant: stored.GetTenant(), Subscription: stored.GetSubscription(), Credentials: credentialsOf(stored.GetSubscription()),
	}
	for _, kept := range secretsInForce(stored, now) {
		secret, err := s.Secrets.Open(kept.sealed)
		if err != nil {
			return nil, err
		}
		endpoint.Secrets = append(endpoint.Secrets, secret)
	}
	return s.Tester.Test(ctx, endpoint, &linkv1.Dispatch{
		Tenant: stored.GetTenant(), Event: logged.GetEvent(), PublishTimeUnixMs: now.UnixMilli(),
	}), nil
}

func (s *Server) checkVerification(way string) error {
	switch way {
	case "":
		return nil
	case verifyChallenge, verifyPing:
		return s.canTest("verification")
	}
	return invalid("verification", "is %q; expected %s or %s, or nothing", way, verifyChallenge, verifyPing)
}

// verify asks the endpoint of a subscription, whose credentials are in the
// clear, what its verification asks of it.
func (s *Server) verify(ctx context.Context, stored *linkv1.StoredSubscription) error {
	var event *fanfarev1.Event
	challenge := ""
	switch stored.GetSubscription().GetVerification() {
	case verifyChallenge:
		challenge = rand.Text()
		event = &fanfarev1.Event{Type: challengeType, Data: []byte(`{"challenge":"` + challenge + `"}`)}
	case verifyPing:
		event = &fanfarev1.Event{Type: pingType, Data: []byte(`{}`)}
	default:
		return nil
	}
	met, err := s.test(ctx, stored, event)
	if err != nil {
		return err
	}
	problem := ""
	switch {
	case met.GetErrorClass() != "":
		problem = "is not verified: " + met.GetError()
	case challenge != "" && !echoes(met.GetResponseBody(), challenge):
		problem = fmt.Sprintf("is not verified: its answer, with status %d, is not the challenge", met.GetStatusCode())
	default:
		return nil
	}
	return &Error{codes.FailedPrecondition, "url", problem}
}

// echoes reports whether an answer is the challenge: all of it, but for white
// space around it, or the member of that name of a JSON object.
func echoes(body []byte, challenge string) bool {
	text := strings.TrimSpace(string(body))
	var object struct {
		Challenge string `json:"challenge"`
	}
	if json.Unmarshal(body, &object) == nil {
		text = object.Challenge
	}
	return subtle.ConstantTimeCompare([]byte(text), []byte(challenge)) == 1
}

// verifyMoved verifies the endpoint that an update moves a subscription to. The
// update itself is made, and checked, once more afterwards.
func (s *Server) verifyMoved(ctx context.Context, leader *lead.Leader, tenant ledger.TenantID, id string,
	given *fanfarev1.Subscription, paths map[string]bool,
) error {
	var old *linkv1.StoredSubscription
	err := leader.Query(ctx, func(l *ledger.Ledger) {
		if sub := l.SubscriptionByID(tenant, id); sub != nil {
			old = sub.Stored
		}
	})
	if err != nil || old == nil || old.GetSubscription().GetUrl() == given.GetUrl() {
		return err // what is wrong with it is said where it is made
	}
	moved, err := s.updated(old, given, paths)
	if err != nil {
		return err
	}
	if err := s.unmask(moved); err != nil {
		return err
	}
	return s.verify(ctx, moved)
}
