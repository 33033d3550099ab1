package bench

import (
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// phase is one load, and what has arrived of it. Safe for concurrent use once
// it is made.
type phase struct {
	prefix   string // of the ids of its events, which end with their number
	events   int
	batch    int
	tenants  int
	healthy  int            // subscriptions of each tenant
	due      []atomic.Int64 // by event: unix ns at which its Publish was due to begin
	seen     []atomic.Uint64
	arrivals atomic.Int64 // first ones
	repeats  atomic.Int64 // second and later ones
	last     atomic.Int64 // unix ns of the newest arrival
	latency  []atomic.Uint32
	acks     []atomic.Uint32 // by batch; µs
}

const bitsPerWord = 64

func newPhase(prefix string, config Config, events, healthy int) *phase {
	return &phase{
		prefix:  prefix,
		events:  events,
		batch:   config.Batch,
		tenants: config.Tenants,
		healthy: healthy,
		due:     make([]atomic.Int64, events),
		seen:    make([]atomic.Uint64, (healthy*config.Tenants*events+bitsPerWord-1)/bitsPerWord),
		latency: make([]atomic.Uint32, healthy*events),
		acks:    make([]atomic.Uint32, (events+config.Batch-1)/config.Batch),
	}
}

// owed is how many deliveries the healthy subscriptions are owed.
func (p *phase) owed() int { return p.healthy * p.events }

// tenantOf returns the tenant that a batch belongs to.
func (p *phase) tenantOf(batch int) int { return batch % p.tenants }

// id returns the id of an event.
func (p *phase) id(event int) string { return p.prefix + strconv.Itoa(event) }

// arrived notes that an event has come to a subscription, and reports whether
// it belongs there.
func (p *phase) arrived(subscription int, id string, now time.Time) bool {
	digits, ours := strings.CutPrefix(id, p.prefix)
	event, err := strconv.Atoi(digits)
	if !ours || err != nil || event < 0 || event >= p.events ||
		subscription < 0 || subscription/p.healthy != p.tenantOf(event/p.batch) {
		return false
	}
	bit := subscription*p.events + event
	mask := uint64(1) << (bit % bitsPerWord)
	if p.seen[bit/bitsPerWord].Or(mask)&mask != 0 {
		p.repeats.Add(1)
		return true
	}
	p.last.Store(now.UnixNano())
	n := p.arrivals.Add(1) - 1
	p.latency[n].Store(micros(now.Sub(time.Unix(0, p.due[event].Load()))))
	return true
}

// micros is a duration in µs, of which an hour and more is all the same.
func micros(d time.Duration) uint32 {
	return uint32(min(max(d, 0), time.Hour).Microseconds()) //nolint:gosec // at most an hour
}

// Latency is how long something took, in milliseconds, by quantile.
type Latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
}

// summarize sorts samples in µs and returns their quantiles (nearest rank).
func summarize(samples []uint32) Latency {
	if len(samples) == 0 {
		return Latency{}
	}
	slices.Sort(samples)
	at := func(q float64) float64 {
		rank := min(int(q*float64(len(samples))), len(samples)-1)
		return float64(samples[rank]) / 1000
	}
	return Latency{P50: at(.5), P99: at(.99), P999: at(.999), Max: at(1)}
}

func loaded(samples []atomic.Uint32) []uint32 {
	values := make([]uint32, len(samples))
	for i := range samples {
		values[i] = samples[i].Load()
	}
	return values
}
