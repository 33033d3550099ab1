package clusterlab_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/coordinator/serve"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	scaleAnswer   = 50 * time.Millisecond // of a receiver
	scaleRequests = 16                    // on the wire, a worker
	scaleSeconds  = 8                     // that each worker is busy for
	scaleHooks    = 16                    // of a tenant
	scaleTenants  = 2                     // of a partition
)

// BenchmarkScaleOut measures how many deliveries a second workers make whose
// requests are limited, to receivers that take their time: what is measured is
// not the machine but how work is spread. What is ideal is the number of
// workers times scaleRequests by scaleAnswer.
func BenchmarkScaleOut(b *testing.B) {
	if os.Getenv("SCALE") == "" {
		b.Skip("SCALE is not set; see make scale")
	}
	for _, workers := range []int{1, 2, 4, 8} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			l := newLab(b, 2, workers, "--max-requests", strconv.Itoa(scaleRequests))
			r := newReceiver(b, scaleAnswer, 0)
			tenants := scaleUp(l, r)
			l.awaitOwned()
			const ideal = scaleRequests * int(time.Second/scaleAnswer)
			events := workers * ideal * scaleSeconds / (len(tenants) * scaleHooks)
			for b.Loop() {
				before := r.total()
				publishTo(l, tenants, events)
				want := before + events*len(tenants)*scaleHooks
				l.await("everything is delivered", 10*time.Minute, func() string {
					if n := r.total(); n < want {
						return fmt.Sprintf("%d of %d", n, want)
					}
					return ""
				})
				b.ReportMetric(r.rate(before), "deliveries/s")
				b.ReportMetric(float64(workers*ideal), "ideal/s")
			}
		})
	}
}

// scaleUp makes the same number of tenants and subscriptions in each
// partition.
func scaleUp(l *lab, r *receiver) (tenants []string) {
	l.t.Helper()
	in := make(map[int]int)
	for i := 0; len(tenants) < partitions*scaleTenants; i++ {
		tenant := fmt.Sprintf("scale-%d", i)
		partition := serve.PartitionOf(ledger.TenantID(tenant), partitions)
		if in[partition] == scaleTenants {
			continue
		}
		in[partition]++
		tenants = append(tenants, tenant)
		l.createTenant(tenant)
		for j := range scaleHooks {
			l.subscribe("tenants/"+tenant, fmt.Sprintf("%s/%s-%d", r.server.URL, tenant, j), "none")
		}
	}
	return tenants
}

// publishTo publishes so many events to each tenant.
func publishTo(l *lab, tenants []string, n int) {
	l.t.Helper()
	for _, tenant := range tenants {
		for batch := range slices.Chunk(make([]struct{}, n), 100) {
			var events []*fanfarev1.Event
			for range batch {
				events = append(events, &fanfarev1.Event{Type: "order.created", Data: []byte(`{}`)})
			}
			_, err := ask(l, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.PublishResponse, error) {
				return fanfarev1.NewEventServiceClient(conn).Publish(ctx, &fanfarev1.PublishRequest{Parent: "tenants/" + tenant, Events: events})
			})
			if err != nil {
				l.t.Fatal(err)
			}
		}
	}
}

// rate returns how many deliveries a second were made, in the middle eight
// tenths of those after the first so many.
func (r *receiver) rate(after int) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []time.Time
	for _, times := range r.accepted {
		all = append(all, times...)
	}
	slices.SortFunc(all, time.Time.Compare)
	all = all[after:]
	middle := all[len(all)/10 : len(all)*9/10]
	return float64(len(middle)-1) / middle[len(middle)-1].Sub(middle[0]).Seconds()
}
