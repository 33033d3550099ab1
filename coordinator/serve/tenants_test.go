package serve_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func TestTenants(t *testing.T) {
	inWorld(t, func(w *world) {
		want := &fanfarev1.Tenant{Name: "tenants/acme", DisplayName: "Acme, Inc.", CreateTime: timestamppb.Now()}
		created := must[*fanfarev1.Tenant](w)(w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{
			TenantId: "acme", Tenant: &fanfarev1.Tenant{DisplayName: "Acme, Inc.", Name: "tenants/other", CreateTime: &timestamppb.Timestamp{Seconds: 1}},
		}))
		got := must[*fanfarev1.Tenant](w)(w.tenants.GetTenant(w.Context(), &fanfarev1.GetTenantRequest{Name: "tenants/acme"}))
		for _, tenant := range []*fanfarev1.Tenant{created, got} {
			if diff := cmp.Diff(want, tenant, protocmp.Transform()); diff != "" {
				w.Errorf("tenant (-want +got):\n%s", diff)
			}
		}
		for _, id := range []string{"acme", "default", "fanfare-system"} {
			_, err := w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{TenantId: id})
			w.refused("create again", err, codes.AlreadyExists, "tenant_id")
		}
		if got := must[*fanfarev1.Tenant](w)(w.tenants.GetTenant(w.Context(), &fanfarev1.GetTenantRequest{Name: tenant})); got.GetName() != tenant {
			w.Errorf("the default tenant is %v", got)
		}

		// A tenant goes only when its subscriptions have gone.
		sub := w.subscribe("tenants/acme")
		_, err := w.tenants.DeleteTenant(w.Context(), &fanfarev1.DeleteTenantRequest{Name: "tenants/acme"})
		w.refused("delete with subscriptions", err, codes.FailedPrecondition, "name")
		must[*emptypb.Empty](w)(w.subscriptions.DeleteSubscription(w.Context(), &fanfarev1.DeleteSubscriptionRequest{Name: sub.GetName()}))
		must[*emptypb.Empty](w)(w.tenants.DeleteTenant(w.Context(), &fanfarev1.DeleteTenantRequest{Name: "tenants/acme"}))
		_, err = w.tenants.DeleteTenant(w.Context(), &fanfarev1.DeleteTenantRequest{Name: "tenants/acme"})
		w.refused("delete again", err, codes.NotFound, "")
		_, err = w.tenants.GetTenant(w.Context(), &fanfarev1.GetTenantRequest{Name: "tenants/acme"})
		w.refused("get what was deleted", err, codes.NotFound, "")
		_, err = w.events.Publish(w.Context(), &fanfarev1.PublishRequest{Parent: "tenants/acme", Events: []*fanfarev1.Event{{Type: "a"}}})
		w.refused("publish to what was deleted", err, codes.NotFound, "")
		_, err = w.tenants.DeleteTenant(w.Context(), &fanfarev1.DeleteTenantRequest{Name: tenant})
		w.refused("delete the default", err, codes.FailedPrecondition, "name")
		_, err = w.tenants.DeleteTenant(w.Context(), &fanfarev1.DeleteTenantRequest{Name: "tenants/fanfare-system"})
		w.refused("delete the system's", err, codes.FailedPrecondition, "name")
		must[*fanfarev1.Tenant](w)(w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{TenantId: "acme"}))
	})
}

func TestTenantLimits(t *testing.T) {
	inWorld(t, func(w *world) {
		for _, tt := range []struct {
			id, name string
			field    string
		}{
			{"a", "", ""},
			{"a" + strings.Repeat("b", 62), strings.Repeat("d", 256), ""},
			{"a" + strings.Repeat("b", 63), "", "tenant_id"},
			{"", "", "tenant_id"},
			{"Acme", "", "tenant_id"},
			{"1acme", "", "tenant_id"},
			{"acme-", "", "tenant_id"},
			{"ac.me", "", "tenant_id"},
			{"ac/me", "", "tenant_id"},
			{"long-name", strings.Repeat("d", 257), "tenant.display_name"},
		} {
			_, err := w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{TenantId: tt.id, Tenant: &fanfarev1.Tenant{DisplayName: tt.name}})
			code := codes.OK
			if tt.field != "" {
				code = codes.InvalidArgument
			}
			w.answered(fmt.Sprintf("create %q", tt.id), err, code, tt.field)
		}
		for _, name := range []string{"acme", "tenants/", "tenants/a/b", "tenants/A"} {
			_, err := w.tenants.GetTenant(w.Context(), &fanfarev1.GetTenantRequest{Name: name})
			w.refused("get "+name, err, codes.InvalidArgument, "name")
			_, err = w.tenants.DeleteTenant(w.Context(), &fanfarev1.DeleteTenantRequest{Name: name})
			w.refused("delete "+name, err, codes.InvalidArgument, "name")
		}
	})
}

// All tenants are listed by id, whichever partition they are in.
func TestListTenants(t *testing.T) {
	inWorld(t, func(w *world) {
		want := []string{tenant, "tenants/fanfare-system"}
		for i := range 58 {
			created := must[*fanfarev1.Tenant](w)(w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{TenantId: fmt.Sprintf("t%d", i)}))
			want = append(want, created.GetName())
		}
		slices.Sort(want)
		list := func(size int32, token string) ([]string, string) {
			response := must[*fanfarev1.ListTenantsResponse](w)(w.tenants.ListTenants(w.Context(), &fanfarev1.ListTenantsRequest{PageSize: size, PageToken: token}))
			var got []string
			for _, one := range response.GetTenants() {
				got = append(got, one.GetName())
			}
			return got, response.GetNextPageToken()
		}
		for size, n := range map[int32]int{0: 50, 1: 1, 59: 59, 60: 60, 61: 60, 1 << 30: 60} {
			if got, token := list(size, ""); !slices.Equal(got, want[:n]) || (token != "") != (n < len(want)) {
				w.Errorf("a page of %d has %v, and the token %q", size, got, token)
			}
		}
		var all []string
		for token := ""; len(all) == 0 || token != ""; {
			var page []string
			page, token = list(7, token)
			all = append(all, page...)
		}
		if !slices.Equal(all, want) {
			w.Errorf("the pages hold %v, want %v", all, want)
		}
		_, err := w.tenants.ListTenants(w.Context(), &fanfarev1.ListTenantsRequest{PageSize: -1})
		w.refused("a negative size", err, codes.InvalidArgument, "page_size")
		_, err = w.tenants.ListTenants(w.Context(), &fanfarev1.ListTenantsRequest{PageToken: "!"})
		w.refused("a token that is none", err, codes.InvalidArgument, "page_token")
	})
}

// Tenants see nothing of one another.
func TestTenantsAreIsolated(t *testing.T) {
	inWorld(t, func(w *world) {
		for _, id := range []string{"acme", "globex"} {
			must[*fanfarev1.Tenant](w)(w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{TenantId: id}))
		}
		w.subscribe("tenants/acme")
		id := w.publish("tenants/acme", "a")[0]
		w.publish("tenants/globex", "a")
		for parent, want := range map[string]int{"tenants/acme": 1, "tenants/globex": 0, tenant: 0} {
			deliveries := must[*fanfarev1.ListDeliveriesResponse](w)(w.deliveries.ListDeliveries(w.Context(), &fanfarev1.ListDeliveriesRequest{Parent: parent}))
			if n := len(deliveries.GetDeliveries()); n != want {
				w.Errorf("%s has %d deliveries, want %d", parent, n, want)
			}
			_, err := w.events.GetEvent(w.Context(), &fanfarev1.GetEventRequest{Name: parent + "/events/" + id})
			if want == 0 {
				w.refused("an event of another tenant", err, codes.NotFound, "")
			} else if err != nil {
				w.Error(err)
			}
		}
	})
}
