package main

import "testing"

func TestGCPercent(t *testing.T) {
	for live, want := range map[uint64]int{
		0: gcMost, 1 << 20: gcMost, 32 << 20: 300, 96 << 20: 100, 160 << 20: gcPercent, 8 << 30: gcPercent,
	} {
		if got := gcPercentOf(live); got != want {
			t.Errorf("with %d MiB alive: %d %%, want %d %%", live>>20, got, want)
		}
	}
}
