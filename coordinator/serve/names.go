package serve

import (
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// DefaultTenant exists from the start and stays.
const DefaultTenant ledger.TenantID = "default"

// SystemTenant exists from the start and stays, too: what is wrong with the
// cluster is in it, and all alerts are published in it.
const SystemTenant ledger.TenantID = "fanfare-system"

// builtIn reports whether a tenant exists from the start.
func builtIn(tenant ledger.TenantID) bool { return tenant == DefaultTenant || tenant == SystemTenant }

const maxTenantLength = 63

// PartitionOf returns the partition a tenant belongs to. It must never change:
// it says where a tenant's log is.
func PartitionOf(tenant ledger.TenantID, partitions int) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(tenant))             // never fails
	return int(h.Sum32() % uint32(partitions)) //nolint:gosec // few partitions
}

// parseTenant reads `tenants/{tenant}`.
func parseTenant(field, name string) (ledger.TenantID, error) {
	ids, err := parseName(field, name, "tenants")
	if err != nil {
		return "", err
	}
	return ledger.TenantID(ids[0]), nil
}

// parseChild reads `tenants/{tenant}/{collection}/{id}`.
func parseChild(field, name, collection string) (ledger.TenantID, string, error) {
	ids, err := parseName(field, name, "tenants", collection)
	if err != nil {
		return "", "", err
	}
	return ledger.TenantID(ids[0]), ids[1], nil
}

// parseName reads a resource name of these collections and returns its ids.
func parseName(field, name string, collections ...string) ([]string, error) {
	parts := strings.Split(name, "/")
	wrong := len(parts) != 2*len(collections)
	ids := make([]string, len(collections))
	for i := 0; !wrong && i < len(collections); i++ {
		ids[i] = parts[2*i+1]
		wrong = parts[2*i] != collections[i] || ids[i] == ""
	}
	if wrong {
		return nil, invalid(field, "is %q; expected %s/*", name, strings.Join(collections, "/*/"))
	}
	if err := checkTenantID(field, ids[0]); err != nil {
		return nil, err
	}
	return ids, nil
}

// parseFilter reads an id, given alone or as the resource's full name.
func parseFilter(field, value string, tenant ledger.TenantID, collection string) (string, error) {
	if !strings.Contains(value, "/") {
		return value, nil
	}
	of, id, err := parseChild(field, value, collection)
	if err != nil {
		return "", err
	}
	if of != tenant {
		return "", invalid(field, "is of tenant %q, not of %q", of, tenant)
	}
	return id, nil
}

func checkTenantID(field, id string) error {
	wrong := id == "" || len(id) > maxTenantLength || id[0] < 'a' || id[0] > 'z' || id[len(id)-1] == '-'
	for _, c := range []byte(id) {
		wrong = wrong || (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-'
	}
	if wrong {
		return invalid(field, "has the tenant %q; expected 1-%d lower-case letters, digits or '-', "+
			"beginning with a letter and not ending with '-'", id, maxTenantLength)
	}
	return nil
}

func tenantName(tenant ledger.TenantID) string { return "tenants/" + string(tenant) }

func subscriptionName(tenant ledger.TenantID, id string) string {
	return fmt.Sprintf("tenants/%s/subscriptions/%s", tenant, id)
}
