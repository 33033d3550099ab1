package history

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Attempts are the most numerous of what SQLite keeps, and are asked for by
// their delivery only. So they are written in runs: one row has all attempts of
// a batch for some events that follow each other in one record. What an
// attempt costs is then its bytes, and not a row. A run is
//
//	{ index, subscription, length: uvarint; fanfare.v1.Attempt without name }…

// runEvents is how many events' attempts a run may have: the more, the fewer
// rows are written, and the more is read to find one.
const runEvents = 64

// run is a row of attempt_runs.
type run struct {
	runKey
	attempts []byte
}

// runKey says which events a run is about: those of a record from an index on.
type runKey struct {
	tenant   string
	event    EventKey // its index is a multiple of runEvents
	sequence uint64   // of the batch: later runs of a key win
}

// runOf returns the key of the run that an attempt is in.
func runOf(tenant string, key EventKey, batch uint64) runKey {
	key.Index -= key.Index % runEvents
	return runKey{tenant, key, batch}
}

// runs returns the attempts of a batch as they are written.
func (b *Batch) runs() ([]run, error) {
	var all []run
	index := make(map[runKey]int)
	for i := range b.Attempts {
		row := &b.Attempts[i]
		key := runOf(row.Tenant, row.Key.EventKey, b.Sequence)
		at, begun := index[key]
		if !begun {
			at = len(all)
			index[key] = at
			all = append(all, run{runKey: key})
		}
		if err := all[at].add(row); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (r *run) add(row *AttemptRow) error {
	encoded, err := proto.Marshal(row.Attempt)
	if err != nil {
		return fmt.Errorf("encoding an attempt of %s: %w", DeliveryID(row.Key), err)
	}
	r.attempts = binary.AppendUvarint(r.attempts, uint64(row.Key.Index))
	r.attempts = binary.AppendUvarint(r.attempts, row.Key.Subscription)
	r.attempts = binary.AppendUvarint(r.attempts, uint64(len(encoded)))
	r.attempts = append(r.attempts, encoded...)
	return nil
}

var errRun = errors.New("a run of attempts cannot be decoded")

// find passes the attempts of one delivery on.
func findInRun(data []byte, key DeliveryKey, found func(*fanfarev1.Attempt)) error {
	next := func() uint64 {
		n, size := binary.Uvarint(data)
		if size <= 0 {
			data = nil
			return math.MaxUint64
		}
		data = data[size:]
		return n
	}
	for len(data) > 0 {
		index, subscription, length := next(), next(), next()
		if length > uint64(len(data)) {
			return errRun
		}
		encoded := data[:length]
		data = data[length:]
		if index != uint64(key.Index) || subscription != key.Subscription {
			continue
		}
		attempt := new(fanfarev1.Attempt)
		if err := proto.Unmarshal(encoded, attempt); err != nil {
			return fmt.Errorf("decoding an attempt: %w", err)
		}
		found(attempt)
	}
	return nil
}

// Attempts implements Store.
func (s *SQLite) Attempts(ctx context.Context, tenant string, key DeliveryKey, page Page) ([]*fanfarev1.Attempt, string, error) {
	all, err := s.allAttempts(ctx, tenant, key)
	if err != nil {
		return nil, "", err
	}
	numbers := slices.Sorted(maps.Keys(all))
	l := attemptList(tenant, key)
	fingerprint := l.fingerprint()
	if page.Token != "" {
		after, err := parsePageToken(page.Token, fingerprint, 1)
		if err != nil {
			return nil, "", err
		}
		from, there := slices.BinarySearch(numbers, int32(after[0])) //nolint:gosec // a forged one only begins elsewhere
		if there {
			from++
		}
		numbers = numbers[from:]
	}
	next := ""
	if len(numbers) > page.Size {
		numbers = numbers[:page.Size]
		if page.Size > 0 {
			next = pageToken(fingerprint, []int64{int64(numbers[page.Size-1])})
		}
	}
	attempts := make([]*fanfarev1.Attempt, 0, len(numbers))
	for _, number := range numbers {
		attempts = append(attempts, all[number])
	}
	return attempts, next, nil
}

// allAttempts returns the attempts of a delivery, by number: those that an
// earlier version has written, and those of runs.
func (s *SQLite) allAttempts(ctx context.Context, tenant string, key DeliveryKey) (all map[int32]*fanfarev1.Attempt, err error) {
	old, _, err := s.queries.Attempts(ctx, tenant, key, Page{Size: math.MaxInt32})
	if err != nil {
		return nil, err
	}
	all = make(map[int32]*fanfarev1.Attempt)
	for _, attempt := range old {
		all[attempt.GetNumber()] = attempt
	}
	prefix := deliveryName(tenant, key) + "/attempts/"
	of := runOf(tenant, key.EventKey, 0).event
	rows, err := s.db.QueryContext(ctx, `SELECT attempts FROM attempt_runs
		WHERE tenant = $1 AND partition = $2 AND sequence = $3 AND first_idx = $4 ORDER BY batch`,
		tenant, of.Partition, integer(of.Sequence), of.Index)
	if err != nil {
		return nil, fmt.Errorf("querying attempts: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var data []byte
		if err := rows.Scan(&data); err != nil {
			return nil, fmt.Errorf("reading attempts: %w", err)
		}
		if err := findInRun(data, key, func(attempt *fanfarev1.Attempt) {
			attempt.Name = fmt.Sprint(prefix, attempt.GetNumber())
			if attempt.GetLatency() == nil {
				attempt.Latency = new(durationpb.Duration)
			}
			all[attempt.GetNumber()] = attempt
		}); err != nil {
			return nil, err
		}
	}
	return all, rows.Err()
}
