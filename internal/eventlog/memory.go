package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// errCutOff is what a Memory that was cut off answers to all but appends.
var errCutOff = errors.New("log: store cannot be reached")

// Memory is a Store in memory, for tests. What it holds outlives the logs
// opened from it, and several logs of one partition may be open at once: it
// is to them what a server is to its clients.
//
// It keeps time by timers only and leaves no goroutine behind once its logs
// are closed, so it runs in a testing/synctest bubble. Its faults are those
// of a real store, seen from one client; Peer makes another client. It is
// safe for concurrent use.
type Memory struct {
	server *memoryServer

	mu       sync.Mutex
	faults   map[int][]Fault // :: partition -> of its next appends; guarded by mu
	delay    time.Duration   // guarded by mu
	refusing bool            // guarded by mu
	cutOff   bool            // guarded by mu
}

// Fault is what goes wrong with one append.
type Fault uint8

// The faults. After each but none, the caller is told ErrUnknown.
const (
	NoFault        Fault = iota
	FailAppend           // the record is not stored
	FailButPersist       // the record is stored
	LoseRequest          // the record is not stored, which shows after DefaultAppendTimeout
	LoseReply            // the record is stored, which shows after DefaultAppendTimeout
)

// NewMemory makes a Store that holds nothing.
func NewMemory() *Memory {
	return newMemory(&memoryServer{partitions: make(map[int]*memoryPartition)})
}

func newMemory(server *memoryServer) *Memory {
	return &Memory{server: server, faults: make(map[int][]Fault)}
}

// Peer makes a Store over the same data whose faults are its own, as another
// process has over the same server.
func (m *Memory) Peer() *Memory { return newMemory(m.server) }

// FailNext gives the partition's next append that has no fault yet this one.
func (m *Memory) FailNext(partition int, fault Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults[partition] = append(m.faults[partition], fault)
}

// DelayAppends makes each append that is called from now on arrive only after
// d. With any delay at all, appends that are called without waiting are all
// under way before the first arrives, if time is a bubble's. If d is beyond
// DefaultAppendTimeout, they arrive when their callers have given them up.
func (m *Memory) DelayAppends(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delay = d
}

// RefuseForSpace makes appends that arrive from now on end with ErrNoSpace,
// or lifts that.
func (m *Memory) RefuseForSpace(refuse bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refusing = refuse
}

// CutOff makes the store unreachable, or reachable again. Appends that would
// arrive meanwhile are lost; everything else fails at once.
func (m *Memory) CutOff(cut bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cutOff = cut
}

// TearSnapshot damages the partition's newest snapshot, if it has one.
func (m *Memory) TearSnapshot(partition int) {
	m.server.partition(partition).snapshots.tear()
}

// Open implements Store.
func (m *Memory) Open(_ context.Context, partition int) (Log, error) {
	if partition < 0 {
		return nil, fmt.Errorf("opening log: partition %d is negative", partition)
	}
	if err := m.reach(); err != nil {
		return nil, fmt.Errorf("opening log: %w", err)
	}
	p := m.server.partition(partition)
	return &partitionLog{
		records:   newMemoryRecords(m, &p.log, func() (Fault, time.Duration) { return m.nextFault(partition) }),
		snapshots: newMemoryRecords(m, &p.snapshots, func() (Fault, time.Duration) { return NoFault, 0 }),
		logger:    slog.New(slog.DiscardHandler),
	}, nil
}

func (m *Memory) nextFault(partition int) (fault Fault, delay time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if queued := m.faults[partition]; len(queued) > 0 {
		fault, m.faults[partition] = queued[0], queued[1:]
	}
	return fault, m.delay
}

func (m *Memory) reach() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cutOff {
		return errCutOff
	}
	return nil
}

func (m *Memory) hasSpace() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.refusing
}

// memoryServer is what all peers share.
type memoryServer struct {
	mu         sync.Mutex
	partitions map[int]*memoryPartition // guarded by mu
}

type memoryPartition struct{ log, snapshots memoryData }

func (s *memoryServer) partition(number int) *memoryPartition {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.partitions[number]
	if p == nil {
		p = &memoryPartition{}
		s.partitions[number] = p
	}
	return p
}

// memoryData are the records themselves.
type memoryData struct {
	mu     sync.Mutex
	purged uint64   // the records 1 to purged are gone; guarded by mu
	stored [][]byte // those after them; guarded by mu
	bytes  uint64   // in stored; guarded by mu
	lastID string   // of the append that stored the last record; guarded by mu
}

// memoryAppend is an append on its way.
type memoryAppend struct {
	prev       uint64
	id, behind string
	data       []byte
	fault      Fault
}

func (d *memoryData) append(a memoryAppend) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if last := d.purged + uint64(len(d.stored)); a.prev != last {
		return fmt.Errorf("%w: the last record is %d, not %d", ErrConflict, last, a.prev)
	}
	if a.behind != "" && a.behind != d.lastID {
		return fmt.Errorf("%w: record %d is not the one expected", ErrConflict, a.prev)
	}
	d.stored = append(d.stored, a.data)
	d.bytes += uint64(len(a.data))
	d.lastID = a.id
	return nil
}

func (d *memoryData) read(from uint64, most int) ([]Record, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if from <= d.purged {
		return nil, fmt.Errorf("%w: %d, the first is %d", ErrPurged, from, d.purged+1)
	}
	var records []Record
	var size int
	for i := from - d.purged - 1; i < uint64(len(d.stored)) && len(records) < most; i++ {
		size += len(d.stored[i])
		if size > MaxReadBytes && len(records) > 0 {
			break
		}
		records = append(records, Record{Seq: d.purged + 1 + i, Data: d.stored[i]})
	}
	return records, nil
}

func (d *memoryData) state() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return State{First: d.purged + 1, Last: d.purged + uint64(len(d.stored)), Bytes: d.bytes}
}

func (d *memoryData) purge(upTo uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for ; d.purged < upTo && len(d.stored) > 0; d.purged++ {
		d.bytes -= uint64(len(d.stored[0]))
		d.stored[0] = nil
		d.stored = d.stored[1:]
	}
}

// tear cuts the last record, a snapshot's seal.
func (d *memoryData) tear() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.stored); n > 0 {
		d.stored[n-1] = d.stored[n-1][:1]
		d.bytes = 0
		for _, data := range d.stored {
			d.bytes += uint64(len(data))
		}
	}
}

// memoryRecords are one client's records of a memoryData.
type memoryRecords struct {
	client *Memory
	data   *memoryData
	faults func() (Fault, time.Duration)
	chain  *chain
	turn   chan struct{} // closed when the newest append has arrived; guarded by chain's mutex
}

func newMemoryRecords(client *Memory, data *memoryData, faults func() (Fault, time.Duration)) *memoryRecords {
	turn := make(chan struct{})
	close(turn)
	return &memoryRecords{client: client, data: data, faults: faults, chain: newChain(), turn: turn}
}

// Append implements Log. An append travels to the server in a goroutine of
// its own, because it may get there after its caller has given it up.
func (r *memoryRecords) Append(prev uint64, data []byte) <-chan error {
	return r.chain.add(func(id, behind string) (wait func() error) {
		if len(data) > MaxRecordBytes {
			return func() error { return tooLarge(data) }
		}
		fault, delay := r.faults()
		a := memoryAppend{prev: prev, id: id, behind: behind, data: data, fault: fault}
		ahead, arrived, reply := r.turn, make(chan struct{}), make(chan error, 1)
		r.turn = arrived
		r.chain.waiting.Go(func() {
			defer close(arrived)
			if !r.travel(delay, ahead) {
				return
			}
			if err := r.client.reach(); err != nil || fault == LoseRequest {
				return
			}
			if err := r.arrive(a); fault != LoseReply {
				reply <- err
			}
		})
		timeout := time.NewTimer(DefaultAppendTimeout)
		return func() error {
			defer timeout.Stop()
			select {
			case err := <-reply:
				return err
			case <-timeout.C:
				return fmt.Errorf("%w: no answer in %v", ErrUnknown, DefaultAppendTimeout)
			case <-r.chain.closing:
				return ErrClosed
			}
		}
	})
}

// travel takes an append's time and lets those ahead of it arrive first. It
// returns false if the log was closed on the way.
func (r *memoryRecords) travel(delay time.Duration, ahead <-chan struct{}) bool {
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.chain.closing:
			return false
		}
	}
	<-ahead
	return r.chain.check() == nil
}

// arrive is what the server does with an append, and its answer.
func (r *memoryRecords) arrive(a memoryAppend) error {
	if a.fault == FailAppend {
		return fmt.Errorf("%w: told to fail", ErrUnknown)
	}
	if !r.client.hasSpace() {
		return fmt.Errorf("%w: told to refuse", ErrNoSpace)
	}
	err := r.data.append(a)
	if err == nil && a.fault == FailButPersist {
		return fmt.Errorf("%w: told to fail, but persisted", ErrUnknown)
	}
	return err
}

// Read implements Log.
func (r *memoryRecords) Read(ctx context.Context, from uint64, most int) ([]Record, error) {
	if err := r.ready(ctx); err != nil {
		return nil, err
	}
	return r.data.read(from, min(most, MaxReadRecords))
}

// State implements Log.
func (r *memoryRecords) State(ctx context.Context) (State, error) {
	if err := r.ready(ctx); err != nil {
		return State{}, err
	}
	return r.data.state(), nil
}

// Purge implements Log.
func (r *memoryRecords) Purge(ctx context.Context, upTo uint64) error {
	if err := r.ready(ctx); err != nil {
		return err
	}
	r.data.purge(upTo)
	return nil
}

func (r *memoryRecords) ready(ctx context.Context) error {
	if err := r.chain.check(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return r.client.reach()
}

// Close implements Log.
func (r *memoryRecords) Close() error {
	r.chain.close()
	return nil
}
