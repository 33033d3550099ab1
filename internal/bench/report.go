package bench

// Report is what a Run measured.
type Report struct {
	Events        int     `json:"events"`
	Size          int     `json:"event_bytes"`
	Tenants       int     `json:"tenants"`
	Subscriptions int     `json:"healthy_subscriptions_per_tenant"`
	Dead          int     `json:"dead_subscriptions_per_tenant"`
	Slow          int     `json:"slow_subscriptions_per_tenant"`
	Rate          float64 `json:"events_per_second_asked"`

	// Load is the load on healthy subscriptions alone; WithBad the same with
	// the dead and the slow ones beside them, if there are any.
	Load    Load  `json:"load"`
	WithBad *Load `json:"load_beside_bad_endpoints,omitempty"`

	// Raw are the baselines, the mean of before and after.
	Raw []Raw `json:"raw,omitempty"`
	// Ratio is deliveries a second of Load, over the requests a second of the
	// raw net/http loop; 0 if none was measured.
	Ratio float64 `json:"ratio_to_raw_net_http"`
	// CPURatio is the CPU of a request of the raw net/http loop, over that of a
	// delivery, everything counted: what Ratio comes to where CPU is what there
	// is least of. Other work on the machine changes it less.
	CPURatio float64 `json:"cpu_ratio_to_raw_net_http"`
}

// Load is what one load came to. Deliveries are those to healthy
// subscriptions.
type Load struct {
	Seconds       float64 `json:"seconds"`
	EventsPerSec  float64 `json:"events_per_second"`     // acknowledged
	PerSec        float64 `json:"deliveries_per_second"` // from the first Publish to the last arrival
	Owed          int     `json:"owed"`
	Delivered     int     `json:"delivered"`
	Lost          int     `json:"lost"`
	Duplicates    int     `json:"duplicates"`
	Unknown       int     `json:"unknown"` // requests that belong to nothing that was published
	Forged        int     `json:"bad_signatures"`
	RepeatedCalls int     `json:"publishes_repeated"`

	Ack      Latency `json:"publish_ack_ms"`
	EndToEnd Latency `json:"publish_to_receiver_ms"`

	// CPU for each delivery, in µs: of the cluster's processes that are
	// known, and of this one, which publishes and receives.
	ClusterCPU float64 `json:"cluster_cpu_us_per_delivery"`
	BenchCPU   float64 `json:"bench_cpu_us_per_delivery"`
	ClusterRSS uint64  `json:"cluster_max_rss_bytes"`
	BenchRSS   uint64  `json:"bench_max_rss_bytes"`
}

// report says what a phase came to.
func (p *phase) report(r result) Load {
	delivered := int(p.arrivals.Load())
	load := Load{
		Seconds:    r.took.Seconds(),
		Owed:       p.owed(),
		Delivered:  delivered,
		Lost:       p.owed() - delivered,
		Duplicates: int(p.repeats.Load()),
		Ack:        summarize(loaded(p.acks)),
		EndToEnd:   summarize(loaded(p.latency[:delivered])),
	}
	if r.publishes > 0 {
		load.EventsPerSec = float64(p.events) / r.publishes.Seconds()
	}
	if r.took > 0 {
		load.PerSec = float64(delivered) / r.took.Seconds()
	}
	return load
}

// mean is the mean of two runs of one client.
func mean(a, b Raw) Raw {
	return Raw{
		Client: a.Client, PerSec: (a.PerSec + b.PerSec) / 2, Requests: a.Requests + b.Requests, CPU: (a.CPU + b.CPU) / 2,
	}
}
