package serve

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// A tenant's partition says where its log is. If this test fails, do not mend
// the test: every cluster there is would look for its tenants elsewhere.
func TestPartitionOfNeverChanges(t *testing.T) {
	tests := []struct {
		tenant ledger.TenantID
		want   [4]int // of 1, 4, 16 and 64 partitions
	}{
		{"default", [4]int{0, 2, 14, 30}},
		{"acme", [4]int{0, 3, 15, 47}},
		{"a", [4]int{0, 0, 12, 44}},
		{"tenant-42", [4]int{0, 2, 2, 2}},
		{"globex-corporation", [4]int{0, 1, 13, 29}},
		{ledger.TenantID(strings.Repeat("z", 63)), [4]int{0, 1, 13, 61}},
	}
	for _, tt := range tests {
		for i, partitions := range []int{1, 4, 16, 64} {
			if got := PartitionOf(tt.tenant, partitions); got != tt.want[i] {
				t.Errorf("PartitionOf(%q, %d) = %d, want %d", tt.tenant, partitions, got, tt.want[i])
			}
		}
	}
}

// Tenants whose ids differ in a digit only are spread over all partitions.
func TestPartitionOfSpreads(t *testing.T) {
	const partitions, tenants = 16, 1600
	counts := make([]int, partitions)
	for i := range tenants {
		counts[PartitionOf(ledger.TenantID(fmt.Sprintf("tenant-%d", i)), partitions)]++
	}
	if slices.Min(counts) < tenants/partitions/2 || slices.Max(counts) > tenants/partitions*2 {
		t.Errorf("partitions have %v of %d tenants", counts, tenants)
	}
}

func TestParseName(t *testing.T) {
	long := "a" + strings.Repeat("b", 62)
	tests := []struct {
		name        string
		collections []string
		want        []string // nil: an error
	}{
		{"tenants/acme", []string{"tenants"}, []string{"acme"}},
		{"tenants/a", []string{"tenants"}, []string{"a"}},
		{"tenants/a-1-b2", []string{"tenants"}, []string{"a-1-b2"}},
		{"tenants/" + long, []string{"tenants"}, []string{long}},
		{"tenants/" + long + "c", []string{"tenants"}, nil},
		{"tenants/", []string{"tenants"}, nil},
		{"tenants", []string{"tenants"}, nil},
		{"", []string{"tenants"}, nil},
		{"acme", []string{"tenants"}, nil},
		{"/tenants/acme", []string{"tenants"}, nil},
		{"tenants/acme/", []string{"tenants"}, nil},
		{"tenants/Acme", []string{"tenants"}, nil},
		{"tenants/1acme", []string{"tenants"}, nil},
		{"tenants/-acme", []string{"tenants"}, nil},
		{"tenants/acme-", []string{"tenants"}, nil},
		{"tenants/ac_me", []string{"tenants"}, nil},
		{"tenants/ac me", []string{"tenants"}, nil},
		{"tenants/é", []string{"tenants"}, nil},
		{"tenants/a\x00", []string{"tenants"}, nil},
		{"tenant/acme", []string{"tenants"}, nil},
		{"tenants/acme/events/e1", []string{"tenants"}, nil},
		{"tenants/acme/events/e1", []string{"tenants", "events"}, []string{"acme", "e1"}},
		{"tenants/acme/events/~any:thing%20?", []string{"tenants", "events"}, []string{"acme", "~any:thing%20?"}},
		{"tenants/acme/events/", []string{"tenants", "events"}, nil},
		{"tenants//events/e1", []string{"tenants", "events"}, nil},
		{"tenants/acme/event/e1", []string{"tenants", "events"}, nil},
		{"tenants/acme/subscriptions/s1", []string{"tenants", "events"}, nil},
		{"tenants/acme", []string{"tenants", "events"}, nil},
	}
	for _, tt := range tests {
		got, err := parseName("parent", tt.name, tt.collections...)
		if tt.want == nil {
			if field := complaint(t, err); field != "parent" {
				t.Errorf("parseName(%q, %v) = %q, complains of %q", tt.name, tt.collections, got, field)
			}
			continue
		}
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("parseName(%q, %v) = %q, %v; want %q", tt.name, tt.collections, got, err, tt.want)
		}
	}
}

func TestParseFilter(t *testing.T) {
	tests := []struct {
		value   string
		want    string
		invalid bool
	}{
		{"", "", false},
		{"s1", "s1", false},
		{"tenants/acme/subscriptions/s1", "s1", false},
		{"tenants/other/subscriptions/s1", "", true},
		{"tenants/acme/events/s1", "", true},
		{"subscriptions/s1", "", true},
		{"/", "", true},
	}
	for _, tt := range tests {
		got, err := parseFilter("subscription", tt.value, "acme", "subscriptions")
		if field := complaint(t, err); got != tt.want || (field == "subscription") != tt.invalid {
			t.Errorf("parseFilter(%q) = %q, %v; want %q, invalid %t", tt.value, got, err, tt.want, tt.invalid)
		}
	}
}

// FuzzParseName wants a name to be exactly what its parts make again.
func FuzzParseName(f *testing.F) {
	for _, name := range []string{"tenants/acme/events/e1", "tenants/acme", "", "/", "tenants//events/", "tenants/A/events/b"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		tenant, id, err := parseChild("name", name, "events")
		if err != nil {
			complaint(t, err)
			return
		}
		if again := tenantName(tenant) + "/events/" + id; again != name {
			t.Errorf("%q was read as %q", name, again)
		}
		if checkTenantID("name", string(tenant)) != nil || id == "" || strings.Contains(id, "/") {
			t.Errorf("%q was read as the tenant %q and the id %q", name, tenant, id)
		}
	})
}
