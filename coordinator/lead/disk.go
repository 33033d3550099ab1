package lead

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// What a Disk keeps free. See docs/limits.md.
const (
	// DefaultReserveShare is the part of a file system that is its reserve
	// unless it is told: one in 50, 2 %.
	DefaultReserveShare = 50
	// MinDefaultReserve and MaxDefaultReserve bound that. What is still
	// written below the reserve are outcomes, snapshots, and the history of
	// what was acknowledged before; beside it, embedded etcd takes 64 MiB at a
	// time for its own log.
	MinDefaultReserve = 256 << 20
	MaxDefaultReserve = 1 << 30

	// diskInterval is how often a Disk is asked. What others write between
	// two looks is all that is not accounted for.
	diskInterval = 250 * time.Millisecond
)

// ErrFull says that nothing new is taken until there is space again. Nothing of what
// was refused was stored.
var ErrFull = errors.New("no space for anything new")

// DiskConfig says what a Disk watches. Zero values are the defaults.
type DiskConfig struct {
	// Free returns how many bytes of the file system this process may still
	// take, and how many it has in all. It must not wait for anything.
	Free func() (free, total uint64, err error)
	// Reserve is how much is to stay free, in bytes. Default: 2 % of the file
	// system, at least MinDefaultReserve and at most MaxDefaultReserve.
	Reserve uint64
	Logger  *slog.Logger
}

// Disk watches the file system that a store in this process is on, for all
// who lead partitions there. Such a store must never meet its end: see
// package eventlog.
//
//	        2 reserves            reserve           a quarter of it
//	free ───────┬────────────────────┬─────────────────────┬───────────▶ 0
//	            │ logs keep only     │ no events,          │ nothing
//	            │ what is owed       │ nothing is created  │ is written
//
// A bound is left behind only when an eighth of the reserve more is free than
// where it was met. What is appended between two looks is counted as gone. A
// nil Disk is never full: the store is elsewhere, and refuses for
// itself. Safe for concurrent use.
type Disk struct {
	config DiskConfig

	mu        sync.Mutex
	free      uint64 // as last seen, less what was appended since; guarded by mu
	total     uint64 // 0: not seen yet; guarded by mu
	appended  uint64 // bytes since ever; guarded by mu
	scarce    bool   // below twice the reserve; guarded by mu
	full      bool   // below the reserve; guarded by mu
	exhausted bool   // below its last quarter; guarded by mu
	blind     bool   // the last look failed; guarded by mu
}

// NewDisk returns a Disk that has not been looked at: it is not full.
func NewDisk(config DiskConfig) *Disk { return &Disk{config: config} }

// Run looks at the disk until ctx ends.
func (d *Disk) Run(ctx context.Context) error {
	ticker := time.NewTicker(diskInterval)
	defer ticker.Stop()
	for {
		d.look()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Full returns why nothing new is taken, or nil.
func (d *Disk) Full() error {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.full {
		return nil
	}
	return fmt.Errorf("%w: %s of %s are free on the log's file system, and %s are kept in reserve",
		ErrFull, mebibytes(d.free), mebibytes(d.total), mebibytes(d.reserve()))
}

// tight reports whether what is not needed should go.
func (d *Disk) tight() bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.scarce
}

// exhaustion returns why nothing at all is written, or nil.
func (d *Disk) exhaustion() error {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.exhausted {
		return nil
	}
	return fmt.Errorf("%w: only %s of %s are free on the log's file system", ErrFull, mebibytes(d.free), mebibytes(d.total))
}

// fits returns why something large cannot be written at once, or nil.
func (d *Disk) fits(bytes int) error {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if need := d.reserve()/4 + uint64(bytes); d.total > 0 && d.free < need { //nolint:gosec // not negative
		return fmt.Errorf("%w: %s are free on the log's file system, and it would need %s",
			ErrFull, mebibytes(d.free), mebibytes(need))
	}
	return nil
}

// charge counts what is about to be written.
func (d *Disk) charge(bytes int) {
	if d == nil {
		return
	}
	d.mu.Lock()
	n := uint64(bytes) //nolint:gosec // not negative
	d.appended += n
	d.free -= min(d.free, n)
	changed := d.judge()
	d.mu.Unlock()
	d.tell(changed)
}

// look asks how much is free.
func (d *Disk) look() {
	d.mu.Lock()
	before := d.appended
	d.mu.Unlock()
	free, total, err := d.config.Free()
	d.mu.Lock()
	if was := d.blind; err != nil {
		d.blind = true
		d.mu.Unlock()
		if !was {
			d.config.Logger.Warn("cannot see how much space is left: only the store's own refusals protect it", "error", err)
		}
		return
	}
	d.blind = false
	// What was appended meanwhile may be in what was seen, or not.
	d.free, d.total = free-min(free, d.appended-before), total
	changed := d.judge()
	d.mu.Unlock()
	d.tell(changed)
}

// reserve is resolved at each look: a file system can grow. mu must be held.
func (d *Disk) reserve() uint64 {
	return cmp.Or(d.config.Reserve, min(max(d.total/DefaultReserveShare, MinDefaultReserve), MaxDefaultReserve))
}

// judge decides what the free space allows, and reports whether that has
// changed. mu must be held.
func (d *Disk) judge() (changed bool) {
	if d.total == 0 {
		return false
	}
	reserve := d.reserve()
	below := func(was bool, bound uint64) bool {
		if was {
			bound += reserve / 8
		}
		return d.free < bound
	}
	full, exhausted := below(d.full, reserve), below(d.exhausted, reserve/4)
	changed = full != d.full || exhausted != d.exhausted
	d.scarce, d.full, d.exhausted = below(d.scarce, 2*reserve), full, exhausted
	return changed
}

// tell logs a change, once for all partitions.
func (d *Disk) tell(changed bool) {
	if !changed {
		return
	}
	full, exhausted := d.Full(), d.exhaustion()
	switch {
	case exhausted != nil:
		d.config.Logger.Error("the disk is as good as full: outcomes, snapshots and the history wait too", "error", exhausted)
	case full != nil:
		d.config.Logger.Error("the disk is filling up: events are refused until there is space again", "error", full)
	default:
		d.config.Logger.Info("there is space again: events are taken")
	}
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
