package serve

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/history"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// GetDelivery implements DeliveryService.
func (s *Server) GetDelivery(ctx context.Context, request *fanfarev1.GetDeliveryRequest) (*fanfarev1.Delivery, error) {
	_, delivery, err := s.delivery(ctx, "name", request.GetName())
	if err != nil {
		return nil, err
	}
	tenant, _, err := parseChild("name", request.GetName(), "deliveries")
	if err != nil {
		return nil, err
	}
	return delivery, s.foretell(ctx, tenant, delivery)
}

// foretell puts in the place of when a PENDING delivery was meant to be tried
// next when it can be at the earliest: at the next probe of an endpoint that is
// only probed, and nobody knows when while that is under way or its subscription
// is not sent to.
func (s *Server) foretell(ctx context.Context, tenant ledger.TenantID, deliveries ...*fanfarev1.Delivery) error {
	waiting := slices.DeleteFunc(slices.Clone(deliveries), func(d *fanfarev1.Delivery) bool { return d.GetNextAttemptTime() == nil })
	if len(waiting) == 0 {
		return nil
	}
	now := time.Now()
	return s.read(ctx, tenant, func(l *ledger.Ledger) {
		for _, d := range waiting {
			name := d.GetSubscription()
			subscription := l.SubscriptionByID(tenant, name[strings.LastIndexByte(name, '/')+1:])
			if subscription == nil {
				continue // deleted since
			}
			switch health := subscription.Health(); {
			case health.Mode != ledger.Active, health.Open && health.NextProbe.Before(now):
				d.NextAttemptTime = nil
			case health.Open:
				d.NextAttemptTime = timestamppb.New(health.NextProbe)
			}
		}
	})
}

// delivery returns the delivery that a field of a request names.
func (s *Server) delivery(ctx context.Context, field, name string) (key history.DeliveryKey, delivery *fanfarev1.Delivery, err error) {
	tenant, id, err := parseChild(field, name, "deliveries")
	if err != nil {
		return key, nil, err
	}
	if key, err = history.ParseDeliveryID(id); err != nil {
		return key, nil, notFound("delivery", name)
	}
	if err := s.followed(ctx, tenant); err != nil {
		return key, nil, err
	}
	delivery, err = s.History.Delivery(ctx, string(tenant), key)
	if errors.Is(err, history.ErrNotFound) {
		err = notFound("delivery", name)
	}
	return key, delivery, err
}

// ListDeliveries implements DeliveryService.
func (s *Server) ListDeliveries(ctx context.Context, request *fanfarev1.ListDeliveriesRequest) (*fanfarev1.ListDeliveriesResponse, error) {
	tenant, err := parseTenant("parent", request.GetParent())
	if err != nil {
		return nil, err
	}
	page, err := pageOf(request.GetPageSize(), request.GetPageToken())
	if err != nil {
		return nil, err
	}
	query, err := deliveryQuery(tenant, request)
	if err != nil {
		return nil, err
	}
	if err := s.followed(ctx, tenant); err != nil {
		return nil, err
	}
	deliveries, next, err := s.History.Deliveries(ctx, query, page)
	if err != nil {
		return nil, err
	}
	if err := s.foretell(ctx, tenant, deliveries...); err != nil {
		return nil, err
	}
	return &fanfarev1.ListDeliveriesResponse{Deliveries: deliveries, NextPageToken: next}, nil
}

// deliveryFilter is what requests have in common that select deliveries.
type deliveryFilter interface {
	GetSubscription() string
	GetEvent() string
	GetState() fanfarev1.Delivery_State
	GetStartTime() *timestamppb.Timestamp
	GetEndTime() *timestamppb.Timestamp
	GetEventType() string
	GetTraceId() string
	GetStatusClass() string
	GetErrorClass() string
}

// deliveryQuery reads the filters of a request.
func deliveryQuery(tenant ledger.TenantID, filter deliveryFilter) (query history.DeliveryQuery, err error) {
	query = history.DeliveryQuery{
		Tenant: string(tenant), State: filter.GetState(), EventType: filter.GetEventType(), ErrorClass: filter.GetErrorClass(),
	}
	if _, known := fanfarev1.Delivery_State_name[int32(query.State)]; !known {
		return query, invalid("state", "is %d, which is not a state", query.State)
	}
	if query.SubscriptionID, err = parseFilter("subscription", filter.GetSubscription(), tenant, "subscriptions"); err != nil {
		return query, err
	}
	if query.EventID, err = parseFilter("event", filter.GetEvent(), tenant, "events"); err != nil {
		return query, err
	}
	if query.TraceID, err = parseTrace(filter.GetTraceId()); err != nil {
		return query, err
	}
	if query.StatusClass, err = parseStatusClass(filter.GetStatusClass()); err != nil {
		return query, err
	}
	query.Start, query.End, err = between(filter.GetStartTime(), filter.GetEndTime())
	return query, err
}

// parseTrace reads the id of a trace as a filter; it may be absent.
func parseTrace(id string) (string, error) {
	id = strings.ToLower(id)
	if id != "" && (len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "") {
		return "", invalid("trace_id", "is %q; expected 32 hexadecimal digits", id)
	}
	return id, nil
}

// parseStatusClass reads a class of statuses as a filter; it may be absent.
func parseStatusClass(class string) (int32, error) {
	switch class {
	case "":
		return 0, nil
	case "1xx", "2xx", "3xx", "4xx", "5xx":
		return int32(class[0] - '0'), nil
	}
	return 0, invalid("status_class", "is %q; expected 1xx, 2xx, 3xx, 4xx or 5xx", class)
}

// ExportDeliveries implements DeliveryService.
func (s *Server) ExportDeliveries(request *fanfarev1.ExportDeliveriesRequest, stream grpc.ServerStreamingServer[fanfarev1.ExportDeliveriesResponse]) error {
	ctx := stream.Context()
	tenant, err := parseTenant("parent", request.GetParent())
	if err != nil {
		return err
	}
	query, err := deliveryQuery(tenant, request)
	if err != nil {
		return err
	}
	if err := s.followed(ctx, tenant); err != nil {
		return err
	}
	return export(func(page history.Page) ([]*fanfarev1.Delivery, string, error) {
		return s.History.Deliveries(ctx, query, page)
	}, func(delivery *fanfarev1.Delivery) error {
		response := &fanfarev1.ExportDeliveriesResponse{Delivery: delivery}
		if request.GetWithAttempts() {
			if response.Attempts, err = s.allAttempts(ctx, tenant, delivery.GetName()); err != nil {
				return err
			}
		}
		return stream.Send(response)
	})
}

// export sends all that a list has, page by page.
func export[T any](list func(history.Page) ([]T, string, error), send func(T) error) error {
	page := history.Page{Size: exportPageSize}
	for {
		items, next, err := list(page)
		if err != nil {
			return err
		}
		for _, item := range items {
			if err := send(item); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		page.Token = next
	}
}

// allAttempts returns all attempts of a delivery that was just found.
func (s *Server) allAttempts(ctx context.Context, tenant ledger.TenantID, name string) (all []*fanfarev1.Attempt, err error) {
	key, err := history.ParseDeliveryID(name[strings.LastIndexByte(name, '/')+1:])
	if err != nil {
		return nil, err
	}
	err = export(func(page history.Page) ([]*fanfarev1.Attempt, string, error) {
		return s.History.Attempts(ctx, string(tenant), key, page)
	}, func(attempt *fanfarev1.Attempt) error {
		all = append(all, attempt)
		return nil
	})
	return all, err
}

// ListAttempts implements DeliveryService.
func (s *Server) ListAttempts(ctx context.Context, request *fanfarev1.ListAttemptsRequest) (*fanfarev1.ListAttemptsResponse, error) {
	tenant, _, err := parseChild("parent", request.GetParent(), "deliveries")
	if err != nil {
		return nil, err
	}
	page, err := pageOf(request.GetPageSize(), request.GetPageToken())
	if err != nil {
		return nil, err
	}
	key, _, err := s.delivery(ctx, "parent", request.GetParent())
	if err != nil {
		return nil, err
	}
	attempts, next, err := s.History.Attempts(ctx, string(tenant), key, page)
	if err != nil {
		return nil, err
	}
	return &fanfarev1.ListAttemptsResponse{Attempts: attempts, NextPageToken: next}, nil
}

// WatchDeliveries implements DeliveryService.
func (s *Server) WatchDeliveries(request *fanfarev1.WatchDeliveriesRequest, stream grpc.ServerStreamingServer[fanfarev1.WatchDeliveriesResponse]) error {
	tenant, err := parseTenant("parent", request.GetParent())
	if err != nil {
		return err
	}
	subscription, err := parseFilter("subscription", request.GetSubscription(), tenant, "subscriptions")
	if err != nil {
		return err
	}
	leader, err := s.leader(stream.Context(), tenant)
	if err != nil {
		return err
	}
	watcher, err := leader.Watch(tenant, subscription)
	if err != nil {
		return err
	}
	// The header tells the client that from here on nothing is missed.
	defer watcher.End()
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	return watcher.Pass(stream.Context(), stream.Send)
}
