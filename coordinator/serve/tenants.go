package serve

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const maxDisplayName = 256 // bytes

// CreateTenant implements TenantService.
func (s *Server) CreateTenant(ctx context.Context, request *fanfarev1.CreateTenantRequest) (*fanfarev1.Tenant, error) {
	if err := checkTenantID("tenant_id", request.GetTenantId()); err != nil {
		return nil, err
	}
	if err := checkText("tenant.display_name", request.GetTenant().GetDisplayName(), maxDisplayName); err != nil {
		return nil, err
	}
	if err := checkRate("tenant.", request.GetTenant()); err != nil {
		return nil, err
	}
	id := ledger.TenantID(request.GetTenantId())
	exists := &Error{codes.AlreadyExists, "tenant_id", fmt.Sprintf("is %q, which exists already", id)}
	if id == DefaultTenant {
		return nil, exists
	}
	leader, err := s.Directory.Leader(PartitionOf(id, s.Directory.Partitions()))
	if err != nil {
		return nil, err
	}
	if err := leader.Accepts(ctx); err != nil {
		return nil, err
	}
	tenant := &fanfarev1.Tenant{
		DisplayName: request.GetTenant().GetDisplayName(), CreateTime: timestamppb.Now(),
		Rate: request.GetTenant().GetRate(), Burst: request.GetTenant().GetBurst(),
	}
	err = leader.ChangeTenant(ctx, func(l *ledger.Ledger) (*linkv1.TenantChange, error) {
		if l.Tenant(id) != nil {
			return nil, exists
		}
		return &linkv1.TenantChange{Id: string(id), Put: tenant}, nil
	})
	if err != nil {
		return nil, err
	}
	return showTenant(id, tenant), nil
}

// GetTenant implements TenantService.
func (s *Server) GetTenant(ctx context.Context, request *fanfarev1.GetTenantRequest) (*fanfarev1.Tenant, error) {
	id, err := parseTenant("name", request.GetName())
	if err != nil {
		return nil, err
	}
	var tenant *fanfarev1.Tenant
	if err := s.read(ctx, id, func(l *ledger.Ledger) { tenant = showTenant(id, l.Tenant(id)) }); err != nil {
		return nil, err
	}
	return tenant, nil
}

// ListTenants implements TenantService.
func (s *Server) ListTenants(ctx context.Context, request *fanfarev1.ListTenantsRequest) (*fanfarev1.ListTenantsResponse, error) {
	page, err := pageOf(request.GetPageSize(), request.GetPageToken())
	if err != nil {
		return nil, err
	}
	after, err := base64.RawURLEncoding.DecodeString(page.Token)
	if err != nil {
		return nil, history.ErrPageToken
	}
	all := map[ledger.TenantID]*fanfarev1.Tenant{DefaultTenant: showTenant(DefaultTenant, nil)}
	for partition := range s.Directory.Partitions() {
		leader, err := s.Directory.Leader(partition)
		if err != nil {
			return nil, err
		}
		err = leader.Query(ctx, func(l *ledger.Ledger) {
			for _, id := range l.Tenants() {
				all[id] = showTenant(id, l.Tenant(id))
			}
		})
		if err != nil {
			return nil, err
		}
	}
	response := new(fanfarev1.ListTenantsResponse)
	for _, id := range sortedAfter(all, ledger.TenantID(after)) {
		if len(response.GetTenants()) == page.Size {
			last := response.GetTenants()[page.Size-1].GetName()[len("tenants/"):]
			response.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(last))
			break
		}
		response.Tenants = append(response.Tenants, all[id])
	}
	return response, nil
}

func sortedAfter(all map[ledger.TenantID]*fanfarev1.Tenant, after ledger.TenantID) []ledger.TenantID {
	var ids []ledger.TenantID
	for id := range all {
		if id > after {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// UpdateTenant implements TenantService.
func (s *Server) UpdateTenant(ctx context.Context, request *fanfarev1.UpdateTenantRequest) (*fanfarev1.Tenant, error) {
	given := request.GetTenant()
	id, err := parseTenant("tenant.name", given.GetName())
	if err != nil {
		return nil, err
	}
	paths, err := tenantMask(request)
	if err != nil {
		return nil, err
	}
	leader, err := s.leader(ctx, id)
	if err != nil {
		return nil, err
	}
	var updated *fanfarev1.Tenant
	err = leader.ChangeTenant(ctx, func(l *ledger.Ledger) (*linkv1.TenantChange, error) {
		before := l.Tenant(id)
		if before == nil && id != DefaultTenant {
			return nil, notFound("tenant", given.GetName())
		}
		updated = showTenant(id, before)
		updated.Name = ""
		if slices.Contains(paths, "display_name") {
			updated.DisplayName = given.GetDisplayName()
		}
		if slices.Contains(paths, "rate") {
			updated.Rate = given.GetRate()
		}
		if slices.Contains(paths, "burst") {
			updated.Burst = given.GetBurst()
		}
		if err := checkText("tenant.display_name", updated.GetDisplayName(), maxDisplayName); err != nil {
			return nil, err
		}
		return &linkv1.TenantChange{Id: string(id), Put: updated}, checkRate("tenant.", updated)
	})
	if err != nil {
		return nil, err
	}
	return showTenant(id, updated), nil
}

// tenantMask returns the fields to change.
func tenantMask(request *fanfarev1.UpdateTenantRequest) ([]string, error) {
	known := []string{"display_name", "rate", "burst"}
	given := request.GetUpdateMask().GetPaths()
	if len(given) == 0 {
		set := request.GetTenant()
		isSet := map[string]bool{"display_name": set.GetDisplayName() != "", "rate": set.GetRate() != 0, "burst": set.GetBurst() != 0}
		return slices.DeleteFunc(known, func(path string) bool { return !isSet[path] }), nil
	}
	for _, path := range given {
		switch {
		case path == "*":
			return known, nil
		case path == "name", path == "create_time": // only the server sets them: ignored
		case !slices.Contains(known, path):
			return nil, invalid("update_mask", "has %q, which is not a field that can be changed", path)
		}
	}
	return given, nil
}

// DeleteTenant implements TenantService.
func (s *Server) DeleteTenant(ctx context.Context, request *fanfarev1.DeleteTenantRequest) (*emptypb.Empty, error) {
	id, err := parseTenant("name", request.GetName())
	if err != nil {
		return nil, err
	}
	if id == DefaultTenant {
		return nil, &Error{codes.FailedPrecondition, "name", "is the default tenant, which stays"}
	}
	leader, err := s.leader(ctx, id)
	if err != nil {
		return nil, err
	}
	err = leader.ChangeTenant(ctx, func(l *ledger.Ledger) (*linkv1.TenantChange, error) {
		if l.Tenant(id) == nil {
			return nil, notFound("tenant", request.GetName())
		}
		if len(l.TenantSubscriptions(id, 0, 1)) > 0 {
			return nil, &Error{codes.FailedPrecondition, "name", "is a tenant that still has subscriptions"}
		}
		return &linkv1.TenantChange{Id: string(id)}, nil
	})
	return &emptypb.Empty{}, err
}

// showTenant returns a tenant as clients see it; stored may be nil.
func showTenant(id ledger.TenantID, stored *fanfarev1.Tenant) *fanfarev1.Tenant {
	tenant := new(fanfarev1.Tenant)
	if stored != nil {
		tenant = proto.CloneOf(stored)
	}
	tenant.Name = tenantName(id)
	return tenant
}
