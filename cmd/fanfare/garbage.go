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
	// gcLarge is up to how much is alive gcPercent holds. Of what there is beyond
	// it there may be gcBeyond percent, but never less than gcLeast in all: the
	// more is alive, the more of it is what a coordinator keeps, and the dearer
	// is room for as much again; to collect costs up to twice as much.
	gcLarge  = 192 << 20
	gcBeyond = 15
	gcLeast  = 25
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
	large := min(live, gcLarge)
	garbage := max(gcFloor, large/100*gcPercent+(live-large)/100*gcBeyond, live/100*gcLeast)
	return int(min(gcMost, (garbage*100+live/2)/max(live, 1)))
}
