package cluster

import (
	"time"

	"golang.org/x/sys/unix"
)

// BootClock counts the time since the machine was started, with the time it
// slept or was suspended: a lease goes on ending meanwhile. Where the kernel
// does not have that clock it is a MonotonicClock.
func BootClock() Clock {
	if _, err := bootTime(); err != nil {
		return MonotonicClock()
	}
	return func() time.Duration {
		now, err := bootTime()
		if err != nil {
			panic("cluster: CLOCK_BOOTTIME failed after it had worked: " + err.Error())
		}
		return now
	}
}

func bootTime() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, err
	}
	return time.Duration(now.Nano()), nil
}
