package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// gcPercent is how much garbage there may be, in percent of what is alive,
	// before it is collected, unless GOGC says otherwise. It is less than Go's
	// 100: what a coordinator keeps of many subscriptions is alive for days, and
	// what limits their number is memory.
	gcPercent = 60
	// gcFloor is how much garbage there may be in any case: where little is
	// alive, to collect often costs much and frees little.
	gcFloor = 96 << 20
	// gcMost bounds what gcFloor makes of a heap that is hardly there.
	gcMost = 800
)

// tuneGC keeps to gcPercent and gcFloor from now on: after each collection it
// is worked out anew when the next begins.
func tuneGC() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := 0
	var adjust func()
	adjust = func() {
		metrics.Read(live)
		if percent := gcPercentOf(live[0].Value.Uint64()); percent != set {
			set = percent
			debug.SetGCPercent(percent)
		}
		garbage := new([16]*byte) // it has a pointer, so nothing else keeps it alive
		runtime.AddCleanup(garbage, func(struct{}) { adjust() }, struct{}{})
	}
	adjust()
}

// gcPercentOf returns how much garbage there may be, in percent of what is
// alive.
func gcPercentOf(live uint64) int {
	return int(min(gcMost, max(gcPercent, gcFloor*100/max(live, 1))))
}
