package serve

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
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
	if err := s.checkTenant(request.GetTenant()); err != nil {
		return nil, err
	}
	id := ledger.TenantID(request.GetTenantId())
	exists := &Error{codes.AlreadyExists, "tenant_id", fmt.Sprintf("is %q, which exists already", id)}
	if builtIn(id) {
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
		Verification:            request.GetTenant().GetVerification(),
		AllowWeakerVerification: request.GetTenant().GetAllowWeakerVerification(),
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
	response := new(fanfarev1.ListTenantsResponse)
	response.Tenants, err = s.allTenants(ctx, string(after), page.Size+1)
	if err != nil {
		return nil, err
	}
	if len(response.GetTenants()) > page.Size {
		response.Tenants = response.GetTenants()[:page.Size]
		last := response.GetTenants()[page.Size-1].GetName()[len("tenants/"):]
		response.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(last))
	}
	return response, nil
}

// allTenants returns the first tenants after an id, gathered from the leaders
// of all partitions.
func (s *Server) allTenants(ctx context.Context, after string, most int) ([]*fanfarev1.Tenant, error) {
	pages := make([][]*fanfarev1.Tenant, s.Directory.Partitions())
	group, ctx := errgroup.WithContext(ctx)
	for partition := range pages {
		group.Go(func() error {
			request := &linkv1.ListPartitionTenantsRequest{
				Partition: int32(partition), After: after, PageSize: int32(most), //nolint:gosec // few of both
			}
			response, err := askLeader(ctx, s, linkv1.PartitionService_ListPartitionTenants_FullMethodName, request, s.ListPartitionTenants)
			pages[partition] = response.GetTenants()
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	all := slices.Concat(pages...)
	slices.SortFunc(all, func(a, b *fanfarev1.Tenant) int { return strings.Compare(a.GetName(), b.GetName()) })
	return all[:min(most, len(all))], nil
}

// ListPartitionTenants implements PartitionService.
func (s *Server) ListPartitionTenants(ctx context.Context, request *linkv1.ListPartitionTenantsRequest) (*linkv1.ListPartitionTenantsResponse, error) {
	leader, err := s.Directory.Leader(int(request.GetPartition()))
	if err != nil {
		return nil, err
	}
	after := ledger.TenantID(request.GetAfter())
	response := new(linkv1.ListPartitionTenantsResponse)
	err = leader.Query(ctx, func(l *ledger.Ledger) {
		ids := slices.DeleteFunc(slices.Clone(l.Tenants()), func(id ledger.TenantID) bool { return id <= after })
		for _, id := range s.builtInOf(int(request.GetPartition())) {
			if id > after && !slices.Contains(ids, id) {
				ids = append(ids, id) // it is there without having been put
			}
		}
		slices.Sort(ids)
		for _, id := range ids[:min(len(ids), int(max(request.GetPageSize(), 0)))] {
			response.Tenants = append(response.Tenants, showTenant(id, l.Tenant(id)))
		}
	})
	return response, err
}

// builtInOf returns the tenants of a partition that exist from the start.
func (s *Server) builtInOf(partition int) []ledger.TenantID {
	return slices.DeleteFunc([]ledger.TenantID{DefaultTenant, SystemTenant}, func(id ledger.TenantID) bool {
		return PartitionOf(id, s.Directory.Partitions()) != partition
	})
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
		if before == nil && !builtIn(id) {
			return nil, notFound("tenant", given.GetName())
		}
		updated = showTenant(id, before)
		updated.Name = ""
		updateTenant(updated, given, paths)
		return &linkv1.TenantChange{Id: string(id), Put: updated}, s.checkTenant(updated)
	})
	if err != nil {
		return nil, err
	}
	return showTenant(id, updated), nil
}

// updateTenant takes over what is to be changed.
func updateTenant(tenant, from *fanfarev1.Tenant, paths []string) {
	for _, path := range paths {
		switch path {
		case "display_name":
			tenant.DisplayName = from.GetDisplayName()
		case "rate":
			tenant.Rate = from.GetRate()
		case "burst":
			tenant.Burst = from.GetBurst()
		case "verification":
			tenant.Verification = from.GetVerification()
		case "allow_weaker_verification":
			tenant.AllowWeakerVerification = from.GetAllowWeakerVerification()
		}
	}
}

// checkTenant says what is wrong with a tenant.
func (s *Server) checkTenant(tenant *fanfarev1.Tenant) error {
	if err := checkText("tenant.display_name", tenant.GetDisplayName(), maxDisplayName); err != nil {
		return err
	}
	if err := s.checkVerification("tenant.verification", tenant.GetVerification()); err != nil {
		return err
	}
	return checkRate("tenant.", tenant)
}

// tenantMask returns the fields to change.
func tenantMask(request *fanfarev1.UpdateTenantRequest) ([]string, error) {
	known := []string{"display_name", "rate", "burst", "verification", "allow_weaker_verification"}
	given := request.GetUpdateMask().GetPaths()
	if len(given) == 0 {
		set := request.GetTenant()
		isSet := map[string]bool{
			"display_name": set.GetDisplayName() != "", "rate": set.GetRate() != 0, "burst": set.GetBurst() != 0,
			"verification": set.GetVerification() != "", "allow_weaker_verification": set.GetAllowWeakerVerification(),
		}
		return slices.DeleteFunc(known, func(path string) bool { return !isSet[path] }), nil
	}
	for _, path := range given {
		switch {
		case path == "*":
			return known, nil
		case path == "name", path == "create_time", path == "alert_rules": // only the server sets them: ignored
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
	if builtIn(id) {
		return nil, &Error{codes.FailedPrecondition, "name", "is a tenant that exists from the start, and stays"}
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
