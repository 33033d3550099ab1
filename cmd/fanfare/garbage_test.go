package main

import "testing"

func TestGCPercent(t *testing.T) {
	for live, want := range map[uint64]int{
		0: gcMost, 1 << 20: gcMost, 32 << 20: 300, 96 << 20: 100, 160 << 20: gcPercent, 192 << 20: gcPercent,
		384 << 20: 37, 512 << 20: 32, 768 << 20: 26, 1024 << 20: gcLeast, 8 << 30: gcLeast,
	} {
		if got := gcPercentOf(live); got != want {
			t.Errorf("with %d MiB alive: %d %%, want %d %%", live>>20, got, want)
		}
	}
}
