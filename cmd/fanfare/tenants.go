package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const tenantsLong = `A tenant is an isolated customer of the cluster, with its own events and
subscriptions. The tenant "default" exists from the start and stays. Other client
commands act in the tenant that --tenant or FANFARE_TENANT names.`

func tenantsCommand(s *settings) *cobra.Command {
	cmd := newGroup("tenants", "Manage the cluster's isolated customers", tenantsLong,
		createTenantCommand(s),
		getTenantCommand(s),
		listTenantsCommand(s),
		updateTenantCommand(s),
		deleteTenantCommand(s),
	)
	cmd.Aliases = []string{"tenant"}
	return cmd
}

func createTenantCommand(s *settings) *cobra.Command {
	flags := &tenantFlags{}
	cmd := &cobra.Command{
		Use:   "create ID",
		Short: "Create a tenant",
		Long: `Create a tenant. Its ID is 1-63 lower-case letters, digits or -, begins with a
letter and does not end with -.`,
		Example: `  fanfare tenants create acme --display-name 'Acme Corporation'`,
		Args:    oneArg("tenant"),
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			created, err := c.tenants().CreateTenant(ctx, &fanfarev1.CreateTenantRequest{
				TenantId: strings.TrimPrefix(args[0], "tenants/"),
				Tenant:   flags.tenant(),
			})
			if err != nil {
				return err
			}
			return c.print(created, tenantDetails(created))
		}),
	}
	flags.register(cmd)
	return cmd
}

// tenantFlags are the fields that users set; each flag stands for the field of
// its name.
type tenantFlags struct {
	displayName  string
	rate         float64
	burst        uint32
	verification string
	allowWeaker  bool
}

func (f *tenantFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.displayName, "display-name", "", "for people")
	flags.Float64Var(&f.rate, "rate", 0, "events a second that are sent to all its subscriptions together at most (0 for no limit)")
	flags.Uint32Var(&f.burst, "burst", 0, "events that may be sent at once after less than the rate (default a tenth of a second's)")
	flags.StringVar(&f.verification, "verification", "",
		"what endpoints of its subscriptions must do first, at the least: challenge (echo it), ping (answer 2xx), or nothing (default nothing)")
	flags.BoolVar(&f.allowWeaker, "allow-weaker-verification", false, "let a subscription ask its endpoint for less than that")
	complete(cmd, "verification", "challenge", "ping")
}

// tenantFields are the flags that stand for a field.
func tenantFields() []string {
	return []string{"display-name", "rate", "burst", "verification", "allow-weaker-verification"}
}

func (f *tenantFlags) tenant() *fanfarev1.Tenant {
	return &fanfarev1.Tenant{
		DisplayName: f.displayName, Rate: f.rate, Burst: f.burst,
		Verification: f.verification, AllowWeakerVerification: f.allowWeaker,
	}
}

func updateTenantCommand(s *settings) *cobra.Command {
	flags := &tenantFlags{}
	cmd := &cobra.Command{
		Use:   "update ID",
		Short: "Change a tenant",
		Long: `Change the fields whose flags are given; the others stay as they are. An empty
value, or 0, sets a field back to its default.`,
		Example: `  fanfare tenants update acme --rate 500
  fanfare tenants update acme --verification challenge
  fanfare tenants update default --rate 0`,
		Args: oneArg("tenant"),
	}
	flags.register(cmd)
	cmd.RunE = s.run(func(ctx context.Context, c *client, args []string) error {
		name, err := tenantName(args[0])
		if err != nil {
			return err
		}
		mask := &fieldmaskpb.FieldMask{}
		for _, flag := range tenantFields() {
			if cmd.Flags().Changed(flag) {
				mask.Paths = append(mask.Paths, strings.ReplaceAll(flag, "-", "_"))
			}
		}
		if len(mask.GetPaths()) == 0 {
			return usagef("nothing to change: give at least one flag, as --rate")
		}
		tenant := flags.tenant()
		tenant.Name = name
		updated, err := c.tenants().UpdateTenant(ctx, &fanfarev1.UpdateTenantRequest{Tenant: tenant, UpdateMask: mask})
		if err != nil {
			return err
		}
		return c.print(updated, tenantDetails(updated))
	})
	return cmd
}

func getTenantCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:     "get ID",
		Short:   "Show one tenant",
		Long:    "Show one tenant.",
		Example: "  fanfare tenants get acme",
		Args:    oneArg("tenant"),
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			name, err := tenantName(args[0])
			if err != nil {
				return err
			}
			got, err := c.tenants().GetTenant(ctx, &fanfarev1.GetTenantRequest{Name: name})
			if err != nil {
				return err
			}
			return c.print(got, tenantDetails(got))
		}),
	}
}

func listTenantsCommand(s *settings) *cobra.Command {
	var pages paging
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List tenants by id",
		Long:    "List all tenants of the cluster by id.",
		Example: "  fanfare tenants list --all",
		Args:    noArgs,
		RunE: s.run(func(ctx context.Context, c *client, _ []string) error {
			tenants := listing[*fanfarev1.ListTenantsResponse]{view: tenantTable}
			tenants.fetch = func(ctx context.Context, size int32, token string) (*fanfarev1.ListTenantsResponse, error) {
				return c.tenants().ListTenants(ctx, &fanfarev1.ListTenantsRequest{PageSize: size, PageToken: token})
			}
			return tenants.print(ctx, c, pages)
		}),
	}
	pages.register(cmd)
	return cmd
}

func deleteTenantCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:     "delete ID",
		Short:   "Delete a tenant that has no subscriptions left",
		Long:    "Delete a tenant. It must have no subscriptions left.",
		Example: "  fanfare tenants delete acme",
		Args:    oneArg("tenant"),
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			name, err := tenantName(args[0])
			if err != nil {
				return err
			}
			done, err := c.tenants().DeleteTenant(ctx, &fanfarev1.DeleteTenantRequest{Name: name})
			if err != nil {
				return fmt.Errorf("deleting %s: %w", lastPart(name), err)
			}
			return c.printLine(done, text("deleted "+lastPart(name)+"\n"))
		}),
	}
}

func tenantTable(page *fanfarev1.ListTenantsResponse) table {
	t := table{header: []string{"ID", "DISPLAY NAME", "CREATED"}, empty: "No tenants."}
	for _, tenant := range page.GetTenants() {
		t.rows = append(t.rows, []string{
			lastPart(tenant.GetName()), tenant.GetDisplayName(), moment(tenant.GetCreateTime()),
		})
	}
	return t
}

func tenantDetails(t *fanfarev1.Tenant) details {
	return details{
		{"ID", lastPart(t.GetName())},
		{"Name", t.GetName()},
		{"Display name", t.GetDisplayName()},
		{"Rate", rate(t)},
		{"Verification", tenantVerification(t)},
		{"Created", moment(t.GetCreateTime())},
	}
}

// tenantVerification puts in words how its endpoints are verified; empty if they
// are not.
func tenantVerification(t *fanfarev1.Tenant) string {
	if t.GetVerification() == "" || !t.GetAllowWeakerVerification() {
		return t.GetVerification()
	}
	return t.GetVerification() + ", unless a subscription asks for less"
}
