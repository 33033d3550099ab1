//go:build !linux

package cluster

// BootClock counts the time as MonotonicClock does: this platform offers no
// better one that is worth its code.
func BootClock() Clock {
	return MonotonicClock()
}
