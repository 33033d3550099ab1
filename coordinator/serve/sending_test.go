package serve_test

import (
	"math"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// How events are sent is checked when a subscription is created, each field by
// its name.
func TestSendingLimits(t *testing.T) {
	inWorld(t, func(w *world) {
		for _, tt := range []struct {
			name  string
			given *fanfarev1.Subscription
			field string // empty: it is allowed
		}{
			{"ordered by key", &fanfarev1.Subscription{Ordering: "key"}, ""},
			{"ordered whole", &fanfarev1.Subscription{Ordering: "subscription"}, ""},
			{"an ordering there is not", &fanfarev1.Subscription{Ordering: "fifo"}, "subscription.ordering"},
			{"the lowest rate", &fanfarev1.Subscription{Rate: 0.001}, ""},
			{"the highest", &fanfarev1.Subscription{Rate: 100000, Burst: 100000}, ""},
			{"a rate too low", &fanfarev1.Subscription{Rate: 0.0001}, "subscription.rate"},
			{"too high", &fanfarev1.Subscription{Rate: 100001}, "subscription.rate"},
			{"negative", &fanfarev1.Subscription{Rate: -1}, "subscription.rate"},
			{"no number", &fanfarev1.Subscription{Rate: math.NaN()}, "subscription.rate"},
			{"a burst too large", &fanfarev1.Subscription{Rate: 1, Burst: 100001}, "subscription.burst"},
			{"a burst alone", &fanfarev1.Subscription{Burst: 5}, "subscription.burst"},
			{"the largest batch", &fanfarev1.Subscription{BatchCount: 1000, BatchBytes: 4 << 20, BatchWait: durationpb.New(time.Minute)}, ""},
			{"no wait", &fanfarev1.Subscription{BatchCount: 1, BatchBytes: 1024, BatchWait: durationpb.New(0)}, ""},
			{"a batch of too many", &fanfarev1.Subscription{BatchCount: 1001}, "subscription.batch_count"},
			{"of too few bytes", &fanfarev1.Subscription{BatchCount: 1, BatchBytes: 1023}, "subscription.batch_bytes"},
			{"of too many", &fanfarev1.Subscription{BatchCount: 1, BatchBytes: 4<<20 + 1}, "subscription.batch_bytes"},
			{"bytes alone", &fanfarev1.Subscription{BatchBytes: 2048}, "subscription.batch_bytes"},
			{"a wait alone", &fanfarev1.Subscription{BatchWait: durationpb.New(time.Second)}, "subscription.batch_wait"},
			{"too long a wait", &fanfarev1.Subscription{BatchCount: 1, BatchWait: durationpb.New(time.Minute + 1)}, "subscription.batch_wait"},
			{"a batch that cannot be", &fanfarev1.Subscription{BatchCount: 1, PayloadMode: "cloudevents-binary"}, "subscription.batch_count"},
		} {
			tt.given.Url = "https://example.com/"
			_, err := w.subscriptions.CreateSubscription(w.Context(), &fanfarev1.CreateSubscriptionRequest{Parent: tenant, Subscription: tt.given})
			if tt.field != "" {
				w.refused(tt.name, err, codes.InvalidArgument, tt.field)
			} else if err != nil {
				w.Errorf("%s: %v", tt.name, err)
			}
		}
	})
}

// Each of these fields is changed alone, and set back.
func TestUpdateSending(t *testing.T) {
	inWorld(t, func(w *world) {
		sub := w.subscribe(tenant)
		update := func(given *fanfarev1.Subscription, paths ...string) *fanfarev1.Subscription {
			given.Name = sub.GetName()
			return must[*fanfarev1.Subscription](w)(w.subscriptions.UpdateSubscription(w.Context(), &fanfarev1.UpdateSubscriptionRequest{
				Subscription: given, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths},
			}))
		}
		update(&fanfarev1.Subscription{Ordering: "key", Rate: 5, Burst: 2})
		got := update(&fanfarev1.Subscription{BatchCount: 3, BatchBytes: 2048, BatchWait: durationpb.New(time.Second)}, "batch_count", "batch_bytes", "batch_wait")
		if got.GetOrdering() != "key" || got.GetRate() != 5 || got.GetBurst() != 2 || got.GetBatchCount() != 3 ||
			got.GetBatchBytes() != 2048 || got.GetBatchWait().AsDuration() != time.Second {
			w.Errorf("it is %v", got)
		}
		got = update(&fanfarev1.Subscription{}, "rate", "burst", "ordering")
		if got.GetOrdering() != "" || got.GetRate() != 0 || got.GetBurst() != 0 || got.GetBatchCount() != 3 {
			w.Errorf("it is %v", got)
		}
	})
}

func TestUpdateTenant(t *testing.T) {
	inWorld(t, func(w *world) {
		for _, name := range []string{"tenants/acme", tenant} {
			if name != tenant {
				must[*fanfarev1.Tenant](w)(w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{
					TenantId: "acme", Tenant: &fanfarev1.Tenant{DisplayName: "Acme"},
				}))
			}
			got := must[*fanfarev1.Tenant](w)(w.tenants.UpdateTenant(w.Context(), &fanfarev1.UpdateTenantRequest{
				Tenant: &fanfarev1.Tenant{Name: name, Rate: 50, Burst: 7},
			}))
			read := must[*fanfarev1.Tenant](w)(w.tenants.GetTenant(w.Context(), &fanfarev1.GetTenantRequest{Name: name}))
			for _, is := range []*fanfarev1.Tenant{got, read} {
				if is.GetName() != name || is.GetRate() != 50 || is.GetBurst() != 7 || name != tenant && is.GetDisplayName() != "Acme" {
					w.Errorf("%s is %v", name, is)
				}
			}
			got = must[*fanfarev1.Tenant](w)(w.tenants.UpdateTenant(w.Context(), &fanfarev1.UpdateTenantRequest{
				Tenant: &fanfarev1.Tenant{Name: name}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"rate", "burst"}},
			}))
			if got.GetRate() != 0 || got.GetBurst() != 0 {
				w.Errorf("%s is %v without its rate", name, got)
			}
		}
		for _, tt := range []struct {
			name  string
			given *fanfarev1.Tenant
			paths []string
			code  codes.Code
			field string
		}{
			{"a rate too high", &fanfarev1.Tenant{Name: tenant, Rate: 1e9}, nil, codes.InvalidArgument, "tenant.rate"},
			{"a burst alone", &fanfarev1.Tenant{Name: tenant, Burst: 1}, nil, codes.InvalidArgument, "tenant.burst"},
			{"a field there is not", &fanfarev1.Tenant{Name: tenant}, []string{"colour"}, codes.InvalidArgument, "update_mask"},
			{"a tenant there is not", &fanfarev1.Tenant{Name: "tenants/nobody", Rate: 1}, nil, codes.NotFound, ""},
		} {
			_, err := w.tenants.UpdateTenant(w.Context(), &fanfarev1.UpdateTenantRequest{
				Tenant: tt.given, UpdateMask: &fieldmaskpb.FieldMask{Paths: tt.paths},
			})
			w.refused(tt.name, err, tt.code, tt.field)
		}
	})
}
