package lead

import (
	"crypto/sha256"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// committed is a record that is in the log.
type committed struct {
	sequence uint64
	hash     []byte
	record   *linkv1.Record
	size     int  // bytes in the log, or of events that slim left
	slim     bool // see recent.slim
}

// decodeRecord reads a record as the log has it.
func decodeRecord(r eventlog.Record) (committed, error) {
	record := new(linkv1.Record)
	if err := proto.Unmarshal(r.Data, record); err != nil {
		return committed{}, fmt.Errorf("%w: decoding record %d: %w", ledger.ErrInvalid, r.Seq, err)
	}
	hash := sha256.Sum256(r.Data)
	return committed{sequence: r.Seq, hash: hash[:], record: record, size: len(r.Data)}, nil
}

// recent holds the newest records in memory, so that what is dispatched or
// followed soon after it was written is not read again. Safe for concurrent
// use; only the loop puts.
type recent struct {
	limit int // bytes

	committed position // of the newest record

	mu      sync.Mutex
	records []committed          // guarded by mu; without gaps, newest last
	older   map[uint64]committed // guarded by mu; read back from the log
	order   []uint64             // guarded by mu; of older, oldest read first
	bytes   int                  // guarded by mu; that records weigh
	held    contents             // guarded by mu; of what was put
	reread  int                  // guarded by mu; bytes that older weigh
	slimmed uint64               // guarded by mu; up to here, records hold nothing but events
}

// What is in memory of a record beside its bytes in the log.
const (
	recordWeight  = 256
	eventWeight   = 192
	outcomeWeight = 64
	detailWeight  = 160 // of an outcome that has more to say
)

// weight is about how much memory a record takes. Many small things take more
// than they do in the log: outcomes three times as much.
func (c *committed) weight() int {
	outcomes := c.record.GetOutcomes()
	return c.size + recordWeight + eventWeight*len(c.record.GetEvents()) +
		outcomeWeight*len(outcomes.GetSubscriptions()) + detailWeight*len(outcomes.GetDetails())
}

func newRecent(limit int) *recent {
	return &recent{limit: limit, older: make(map[uint64]committed)}
}

// put adds the record that follows the last one.
func (r *recent) put(c committed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, c)
	r.held.add(c.sequence, c.record)
	r.bytes += c.weight()
	for r.bytes > r.limit && len(r.records) > 1 {
		r.bytes -= r.records[0].weight()
		r.records[0] = committed{}
		r.records = r.records[1:]
	}
	r.committed.set(c.sequence)
}

// slim drops from the records up to one, which has been followed, all but what
// may be sent and looked through still, their events, and what they vouch for.
// The rest, mostly outcomes, is what the memory would hold otherwise.
func (r *recent) slim(upTo uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.records {
		c := &r.records[len(r.records)-1-i]
		if c.sequence <= r.slimmed {
			break
		}
		if c.sequence > upTo {
			continue
		}
		r.bytes -= c.weight()
		c.size, c.slim = 0, true
		for _, event := range c.record.GetEvents() {
			c.size += len(event.GetEvent())
		}
		c.record = &linkv1.Record{
			TimeUnixMs: c.record.GetTimeUnixMs(), PreviousHash: c.record.GetPreviousHash(), Events: c.record.GetEvents(),
		}
		r.bytes += c.weight()
	}
	r.slimmed = max(r.slimmed, upTo)
}

// putOlder adds a record that was read back from the log.
func (r *recent) putOlder(c committed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.older[c.sequence]; ok {
		return
	}
	r.older[c.sequence] = c
	r.order = append(r.order, c.sequence)
	r.reread += c.weight()
	for r.reread > r.limit/4 && len(r.order) > 1 {
		first := r.older[r.order[0]]
		r.reread -= first.weight()
		delete(r.older, r.order[0])
		r.order = r.order[1:]
	}
}

// contents says what the records hold that were put, in memory still or not.
func (r *recent) contents() contents {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held.view()
}

// mark returns the mark of the newest record.
func (r *recent) mark() Mark {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.records) == 0 {
		return Mark{}
	}
	newest := r.records[len(r.records)-1]
	return Mark{newest.sequence, newest.hash}
}

// get returns a record if it is in memory, or what slim left of it.
func (r *recent) get(sequence uint64) (committed, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok := r.newer(sequence); ok {
		return c, true
	}
	c, ok := r.older[sequence]
	return c, ok
}

// whole returns a record if all of it is in memory.
func (r *recent) whole(sequence uint64) (committed, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok := r.newer(sequence); ok && !c.slim {
		return c, true
	}
	c, ok := r.older[sequence]
	return c, ok
}

// newer returns a record that was put. r.mu is held.
func (r *recent) newer(sequence uint64) (committed, bool) {
	if len(r.records) == 0 || sequence < r.records[0].sequence {
		return committed{}, false
	}
	if i := sequence - r.records[0].sequence; i < uint64(len(r.records)) {
		return r.records[i], true
	}
	return committed{}, false
}
