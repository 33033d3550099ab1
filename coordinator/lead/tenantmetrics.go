package lead

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// OtherTenants is what the tenants are called together that are beyond the limit
// of TenantMetrics. No tenant has such a name.
const OtherTenants = "_other"

// TenantMetrics counts for each tenant, for all leaders of a process: the first
// so many tenants that have any traffic by their names, and all others together.
// nil counts nothing. Safe for concurrent use.
type TenantMetrics struct {
	events     metric.Int64Counter
	deliveries metric.Int64Counter
	limit      int

	mu    sync.Mutex
	known map[ledger.TenantID]bool // guarded by mu; at most limit
}

// NewTenantMetrics counts at most limit tenants by their names; nil if limit is
// 0.
func NewTenantMetrics(meter metric.Meter, limit int) (*TenantMetrics, error) {
	if limit <= 0 || meter == nil {
		return nil, nil //nolint:nilnil // nil counts nothing
	}
	m := &TenantMetrics{limit: limit, known: make(map[ledger.TenantID]bool)}
	var errs [2]error
	m.events, errs[0] = meter.Int64Counter("fanfare.tenant.events.published",
		metric.WithDescription("Events made durable, by tenant."), metric.WithUnit("{event}"))
	m.deliveries, errs[1] = meter.Int64Counter("fanfare.tenant.deliveries",
		metric.WithDescription("Deliveries that began to be owed or ended, by tenant and state."), metric.WithUnit("{delivery}"))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("making instruments: %w", err)
	}
	return m, nil
}

// committed counts a block that is in the log.
func (m *TenantMetrics) committed(ctx context.Context, b *block, result ledger.Result) {
	if m == nil {
		return
	}
	type count struct{ tenant, state string }
	events, deliveries := make(map[string]int64), make(map[count]int64)
	for _, e := range b.events {
		events[m.name(ledger.TenantID(e.event.GetTenant()))]++
	}
	for _, d := range result.Deliveries {
		if d.Kind != ledger.Retried && d.Kind != ledger.Rescheduled {
			deliveries[count{m.name(d.Tenant), stateOf(d.Kind).String()}]++
		}
	}
	for tenant, n := range events {
		m.events.Add(ctx, n, metric.WithAttributes(attribute.String("fanfare.tenant", tenant)))
	}
	for c, n := range deliveries {
		m.deliveries.Add(ctx, n, metric.WithAttributes(
			attribute.String("fanfare.tenant", c.tenant), attribute.String("fanfare.delivery.state", c.state)))
	}
}

// name returns what a tenant is counted as.
func (m *TenantMetrics) name(tenant ledger.TenantID) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known[tenant] {
		if len(m.known) >= m.limit {
			return OtherTenants
		}
		m.known[tenant] = true
	}
	return string(tenant)
}
