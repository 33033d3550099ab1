package serve

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// testType is the type of what SendTest sends unless it is told another.
const testType = "fanfare.test"

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
	endpoint, err := s.endpoint(stored, now)
	if err != nil {
		return nil, err
	}
	return s.Tester.Test(ctx, endpoint, &linkv1.Dispatch{
		Tenant: stored.GetTenant(), Event: logged.GetEvent(), PublishTimeUnixMs: now.UnixMilli(),
	}), nil
}

// endpoint returns a subscription whose credentials are in the clear as what
// sends to it needs it.
func (s *Server) endpoint(stored *linkv1.StoredSubscription, now time.Time) (*linkv1.Endpoint, error) {
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
	return endpoint, nil
}
