package eventlog

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

const (
	// snapshotChunk is how much of a snapshot one record holds. Two such
	// records fit into one Read.
	snapshotChunk = 500 << 10
	// snapshotWindow is how many chunks of a snapshot are under way at once:
	// enough to keep a disk busy, few enough to let the log's own appends
	// through.
	snapshotWindow = 4
	// snapshotsKept is how many snapshots outlive the saving of another.
	snapshotsKept = 2
)

// records is what a log is made of, and so are the snapshots beside it.
type records interface {
	Append(prev uint64, data []byte) <-chan error
	Read(ctx context.Context, from uint64, most int) ([]Record, error)
	State(ctx context.Context) (State, error)
	Purge(ctx context.Context, upTo uint64) error
	Close() error
}

// partitionLog is a Log: its records, and a second sequence of records that
// holds its snapshots.
//
// A snapshot is a run of records, its chunks and then a seal:
//
//	… │ chunk chunk seal │ chunk chunk │ chunk chunk chunk seal
//	    └── first ──┘      torn: no seal
//
// Every record names the first of its run, so whoever walks back from the end
// leaps from run to run, over those that were never finished. A run without a
// seal is no snapshot, and a seal is appended only when all its chunks are
// durable. Two writers cannot mix their runs, for appends are conditional.
type partitionLog struct {
	records
	snapshots records
	logger    *slog.Logger
}

// part is the head of every record of a run. Big endian, as all that follows.
type part struct {
	Kind  partKind
	First uint64 // the run's first record
}

type partKind uint8

const (
	chunkPart partKind = 1 // followed by a piece of the snapshot
	sealPart  partKind = 2 // followed by a seal
)

// seal ends a run and says what it holds.
type seal struct {
	Seq    uint64 // the record of the log after which the snapshot was taken
	Size   uint64 // of the snapshot, in bytes
	Digest [sha256.Size]byte
}

// run is a finished snapshot: the records from first up to the seal's own.
type run struct {
	first, end uint64
	seal
}

// SaveSnapshot implements Log.
func (l *partitionLog) SaveSnapshot(ctx context.Context, seq uint64, data []byte) error {
	kept, err := l.runs(ctx)
	if err != nil {
		return fmt.Errorf("finding older snapshots: %w", err)
	}
	if len(kept) >= snapshotsKept && seq < kept[snapshotsKept-1].Seq {
		return nil
	}
	saved, err := l.write(ctx, seq, data)
	if err != nil {
		return fmt.Errorf("saving snapshot %d: %w", seq, err)
	}
	kept = newest(append(kept, saved))
	floor := saved.first
	for _, r := range kept[:min(len(kept), snapshotsKept)] {
		floor = min(floor, r.first)
	}
	if err := l.snapshots.Purge(ctx, floor-1); err != nil {
		return fmt.Errorf("purging older snapshots: %w", err)
	}
	return nil
}

// LoadSnapshot implements Log.
func (l *partitionLog) LoadSnapshot(ctx context.Context, atMost uint64) (uint64, []byte, error) {
	kept, err := l.runs(ctx)
	if err != nil {
		return 0, nil, fmt.Errorf("finding snapshots: %w", err)
	}
	for _, r := range kept {
		if r.Seq > atMost {
			continue
		}
		data, err := l.load(ctx, r)
		switch {
		case err == nil:
			return r.Seq, data, nil
		case !missing(err):
			return 0, nil, fmt.Errorf("loading snapshot %d: %w", r.Seq, err)
		}
		l.logger.Warn("snapshot is torn, falling back to the one before", "seq", r.Seq, "error", err)
	}
	return 0, nil, ErrNoSnapshot
}

// Close implements Log.
func (l *partitionLog) Close() error {
	return errors.Join(l.records.Close(), l.snapshots.Close())
}

// write appends a run and returns when its seal is durable.
func (l *partitionLog) write(ctx context.Context, seq uint64, data []byte) (run, error) {
	state, err := l.snapshots.State(ctx)
	if err != nil {
		return run{}, err
	}
	r := run{first: state.Last + 1, end: state.Last, seal: seal{Seq: seq, Size: uint64(len(data)), Digest: sha256.Sum256(data)}}
	var underWay []<-chan error
	for chunk := range slices.Chunk(data, snapshotChunk) {
		if len(underWay) == snapshotWindow {
			if err := await(ctx, underWay[0]); err != nil {
				return run{}, err
			}
			underWay = underWay[1:]
		}
		record, err := encodePart(part{Kind: chunkPart, First: r.first}, chunk)
		if err != nil {
			return run{}, err
		}
		underWay = append(underWay, l.snapshots.Append(r.end, record))
		r.end++
	}
	for _, result := range underWay {
		if err := await(ctx, result); err != nil {
			return run{}, err
		}
	}
	record, err := encodePart(part{Kind: sealPart, First: r.first}, r.seal)
	if err != nil {
		return run{}, err
	}
	if err := await(ctx, l.snapshots.Append(r.end, record)); err != nil {
		return run{}, err
	}
	r.end++
	return r, nil
}

// await returns an append's result, or the context's error.
func await(ctx context.Context, result <-chan error) error {
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// load reads a run back and checks it against its seal.
func (l *partitionLog) load(ctx context.Context, r run) ([]byte, error) {
	var data []byte
	for at := r.first; at < r.end; {
		chunks, err := l.snapshots.Read(ctx, at, MaxReadRecords)
		if err != nil {
			return nil, err
		}
		if len(chunks) == 0 {
			return nil, fmt.Errorf("%w: run ends before its seal", ErrDamaged)
		}
		for _, c := range chunks[:min(uint64(len(chunks)), r.end-at)] {
			p, body, err := decodePart(c.Data)
			if err != nil || p != (part{Kind: chunkPart, First: r.first}) {
				return nil, fmt.Errorf("%w: record %d is no chunk of the run", ErrDamaged, c.Seq)
			}
			data = append(data, body...)
			at = c.Seq + 1
		}
	}
	if uint64(len(data)) != r.Size || sha256.Sum256(data) != r.Digest {
		return nil, fmt.Errorf("%w: digest differs from the seal's", ErrDamaged)
	}
	return data, nil
}

// runs returns the snapshots that have a seal, highest seq first. It walks
// back from the end, a step over what cannot be read and a leap over a run.
func (l *partitionLog) runs(ctx context.Context) ([]run, error) {
	state, err := l.snapshots.State(ctx)
	if err != nil {
		return nil, err
	}
	var found []run
	for at := state.Last; at >= state.First && at > 0; {
		got, err := l.snapshots.Read(ctx, at, 1)
		if err != nil && !missing(err) {
			return nil, err
		}
		r, sealed, ok := parseRun(got)
		if !ok {
			at--
			continue
		}
		if sealed {
			found = append(found, r)
		}
		at = r.first - 1
	}
	return newest(found), nil
}

// parseRun understands the first of the records as part of a run. Only a
// sealed one has a seal and an end.
func parseRun(got []Record) (r run, sealed, ok bool) {
	if len(got) == 0 {
		return run{}, false, false
	}
	p, body, err := decodePart(got[0].Data)
	if err != nil || p.First == 0 || p.First > got[0].Seq {
		return run{}, false, false
	}
	r = run{first: p.First, end: got[0].Seq}
	if p.Kind == chunkPart {
		return r, false, true
	}
	n, err := binary.Decode(body, binary.BigEndian, &r.seal)
	return r, true, err == nil && n == len(body) && p.Kind == sealPart
}

// encodePart makes a record of a run. body is a chunk's bytes or a seal.
func encodePart(p part, body any) ([]byte, error) {
	record := make([]byte, 0, binary.Size(p)+binary.Size(body))
	record, err := binary.Append(record, binary.BigEndian, p)
	if err != nil {
		return nil, fmt.Errorf("encoding part: %w", err)
	}
	if record, err = binary.Append(record, binary.BigEndian, body); err != nil {
		return nil, fmt.Errorf("encoding part: %w", err)
	}
	return record, nil
}

// decodePart takes a record of a run apart.
func decodePart(record []byte) (p part, body []byte, err error) {
	n, err := binary.Decode(record, binary.BigEndian, &p)
	if err != nil {
		return part{}, nil, fmt.Errorf("decoding part: %w", err)
	}
	return p, record[n:], nil
}

// newest sorts runs by seq, highest first. Of those with the same seq only
// the one saved last remains.
func newest(runs []run) []run {
	slices.SortFunc(runs, func(a, b run) int {
		return cmp.Or(cmp.Compare(b.Seq, a.Seq), cmp.Compare(b.first, a.first))
	})
	return slices.CompactFunc(runs, func(a, b run) bool { return a.Seq == b.Seq })
}

// missing reports whether an error says that a record is not there, now or
// ever, and not that the store could not be asked.
func missing(err error) bool {
	return errors.Is(err, ErrDamaged) || errors.Is(err, ErrPurged)
}
