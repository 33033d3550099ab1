package worker

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// typicalEndpoint is one as a leader tells it.
func typicalEndpoint(number uint64) *linkv1.Endpoint {
	return &linkv1.Endpoint{
		Number: number, Tenant: "acme", SubscriptionId: fmt.Sprintf("sub_%026d", number), Secrets: []string{testSecret},
		Subscription: &fanfarev1.Subscription{
			Url:        fmt.Sprintf("https://customer.example/v1/webhooks/incoming/%d", number),
			EventTypes: []string{"order.created"}, PayloadMode: "standard",
			CreateTime: timestamppb.New(time.Unix(1_700_000_000, 0)), UpdateTime: timestamppb.New(time.Unix(1_700_000_000, 0)),
		},
	}
}

// BenchmarkEndpointMemory is what a worker keeps of an endpoint: of one that it
// sends nothing to, and of one that it has just sent something to.
func BenchmarkEndpointMemory(b *testing.B) {
	const endpoints = 20_000
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	for b.Loop() {
		empty := heap()
		q := newQueues(64)
		for number := range uint64(endpoints) {
			q.put(eid(number), newRoute(typicalEndpoint(number)))
		}
		idle := heap()
		for _, e := range q.endpoints {
			if _, _, err := e.route.target().sign(&payload{body: []byte("{}")}, "evt_1", time.Unix(1_700_000_000, 0)); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(idle-empty)/endpoints, "idle-B/endpoint")
		b.ReportMetric(float64(heap()-idle)/endpoints, "target-B/endpoint")
		runtime.KeepAlive(q)
	}
}

// BenchmarkRoute is what it costs to put an endpoint, and to make its target
// when it was let go.
func BenchmarkRoute(b *testing.B) {
	e := typicalEndpoint(1)
	b.Run("put", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			newRoute(e)
		}
	})
	b.Run("target", func(b *testing.B) {
		b.ReportAllocs()
		r := newRoute(e)
		for b.Loop() {
			r.target()
			r.letGo()
		}
	})
	b.Run("warm", func(b *testing.B) {
		r := newRoute(e)
		for b.Loop() {
			r.target()
		}
	})
}
