package worker

import (
	"fmt"
	"testing"
)

// BenchmarkQueues is what a request costs the queues: without hosts, with hosts
// that have places, and with a thousand endpoints at one that has none.
func BenchmarkQueues(b *testing.B) {
	for _, bench := range []struct {
		name             string
		endpoints, hosts int // no hosts: none are counted
		perHost          int
	}{
		{"no hosts", 1000, 0, 256},
		{"100 hosts", 1000, 100, 256},
		{"one full host", 1000, 1, 256},
	} {
		b.Run(bench.name, func(b *testing.B) {
			q := newQueues(1024)
			q.perHost = bench.perHost
			for number := range uint64(bench.endpoints) {
				to := &route{}
				if bench.hosts > 0 {
					to.host = fmt.Sprintf("h%d:443", number%uint64(bench.hosts))
				}
				q.put(eid(number), to)
				fill(q, number, 4)
			}
			var wire []start
			for s, ok := q.next(0); ok; s, ok = q.next(0) {
				wire = append(wire, s)
			}
			i := 0
			for b.Loop() {
				ended := wire[i%len(wire)]
				q.done(ended.id, verdictSuccess)
				q.push(ended.id, ended.delivery, 0)
				s, ok := q.next(0)
				if !ok {
					b.Fatal("nothing may be sent")
				}
				wire[i%len(wire)] = s
				i++
			}
		})
	}
}
