package history

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"time"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// The lengths of time that counts are kept for: the first at first, the second
// once it is some time ago.
const (
	StatisticsMinute = time.Minute
	StatisticsHour   = time.Hour
)

// maxClasses bounds the classes that Counts tells apart; all further ones
// count as `other`. There are about twenty.
const maxClasses = 64

// otherClass is the class of what is none of the others.
const otherClass = "other"

// Counts is what happened to the deliveries of one subscription in some time.
// Counts of two times can be added.
type Counts struct {
	// Deliveries that ended so.
	Delivered, Dead, Expired, Cancelled uint64
	// Attempts, and those of them that failed.
	Attempts, Failed uint64
	// Classes counts the attempts by class: `2xx` and the like by the answer,
	// without one the error class.
	Classes map[string]uint64
	// Latency counts the attempts by how long they took.
	Latency Histogram
}

// Add adds what is in other.
func (c *Counts) Add(other *Counts) {
	c.Delivered += other.Delivered
	c.Dead += other.Dead
	c.Expired += other.Expired
	c.Cancelled += other.Cancelled
	c.Attempts += other.Attempts
	c.Failed += other.Failed
	for class, n := range other.Classes {
		c.addClass(class, n)
	}
	for bucket, n := range other.Latency {
		c.Latency.add(bucket, n)
	}
}

func (c *Counts) addClass(class string, n uint64) {
	if c.Classes == nil {
		c.Classes = make(map[string]uint64)
	}
	if _, known := c.Classes[class]; !known && len(c.Classes) >= maxClasses {
		class = otherClass
	}
	c.Classes[class] += n
}

// addDelivery counts a delivery that has ended.
func (c *Counts) addDelivery(state fanfarev1.Delivery_State) {
	switch state {
	case fanfarev1.Delivery_DELIVERED:
		c.Delivered++
	case fanfarev1.Delivery_DEAD:
		c.Dead++
	case fanfarev1.Delivery_EXPIRED:
		c.Expired++
	case fanfarev1.Delivery_CANCELLED:
		c.Cancelled++
	case fanfarev1.Delivery_PENDING, fanfarev1.Delivery_STATE_UNSPECIFIED: // has not ended
	}
}

func (c *Counts) addAttempt(attempt *fanfarev1.Attempt) {
	c.Attempts++
	if attempt.GetResult() != fanfarev1.Attempt_DELIVERED {
		c.Failed++
	}
	c.addClass(classOf(attempt), 1)
	c.Latency.add(bucketOf(attempt.GetLatency().AsDuration()), 1)
}

// classOf returns the class of an attempt: that of its answer or, without one,
// of its error.
func classOf(attempt *fanfarev1.Attempt) string {
	if status := attempt.GetStatusCode(); status >= 100 && status < 600 {
		return strconv.Itoa(int(status/100)) + "xx"
	}
	return cmp.Or(attempt.GetErrorClass(), otherClass)
}

// Histogram counts durations in buckets, each of which is a sixteenth of a
// power of two microseconds wide: :: bucket -> how many.
type Histogram map[uint64]uint64

// histogramBits says how many buckets a power of two has: 16.
const histogramBits = 4

func (h *Histogram) add(bucket, n uint64) {
	if *h == nil {
		*h = make(Histogram)
	}
	(*h)[bucket] += n
}

// bucketOf returns the bucket of a duration. Below 32 microseconds each has a
// bucket of its own.
func bucketOf(d time.Duration) uint64 {
	us := uint64(max(0, d.Microseconds()))
	shift := max(0, bits.Len64(us)-histogramBits-1)
	return uint64(shift)<<histogramBits + us>>shift
}

// endOf returns the longest duration of a bucket.
func endOf(bucket uint64) time.Duration {
	if bucket < 2<<histogramBits {
		return time.Duration(bucket) * time.Microsecond
	}
	shift := bucket>>histogramBits - 1
	return time.Duration((bucket-shift<<histogramBits+1)<<shift-1) * time.Microsecond //nolint:gosec // a duration's microseconds
}

// Quantile returns a duration that the share q of all do not exceed, at most a
// sixteenth longer than the shortest such; 0 if there are none.
func (h Histogram) Quantile(q float64) time.Duration {
	var all uint64
	for _, n := range h {
		all += n
	}
	var seen uint64
	for _, bucket := range slices.Sorted(maps.Keys(h)) {
		if seen += h[bucket]; float64(seen) >= q*float64(all) {
			return endOf(bucket)
		}
	}
	return 0
}

// countsVersion begins encoded counts.
const countsVersion = 1

// encode returns the counts as the tables have them: a version, then varints.
func (c *Counts) encode() []byte {
	data := []byte{countsVersion}
	for _, n := range []uint64{c.Delivered, c.Dead, c.Expired, c.Cancelled, c.Attempts, c.Failed, uint64(len(c.Classes))} {
		data = binary.AppendUvarint(data, n)
	}
	for _, class := range slices.Sorted(maps.Keys(c.Classes)) {
		data = binary.AppendUvarint(data, uint64(len(class)))
		data = append(data, class...)
		data = binary.AppendUvarint(data, c.Classes[class])
	}
	data = binary.AppendUvarint(data, uint64(len(c.Latency)))
	for _, bucket := range slices.Sorted(maps.Keys(c.Latency)) {
		data = binary.AppendUvarint(data, bucket)
		data = binary.AppendUvarint(data, c.Latency[bucket])
	}
	return data
}

var errCounts = errors.New("counts cannot be decoded")

// decodeCounts is the inverse of encode.
func decodeCounts(data []byte) (*Counts, error) {
	if len(data) == 0 || data[0] != countsVersion {
		return nil, errCounts
	}
	data = data[1:]
	failed := false
	next := func() uint64 {
		n, size := binary.Uvarint(data)
		if size <= 0 {
			failed, data = true, nil
			return 0
		}
		data = data[size:]
		return n
	}
	c := &Counts{Delivered: next(), Dead: next(), Expired: next(), Cancelled: next(), Attempts: next(), Failed: next()}
	for n := next(); n > 0 && !failed; n-- {
		size := next()
		if size > uint64(len(data)) {
			return nil, errCounts
		}
		class := string(data[:size])
		data = data[size:]
		c.addClass(class, next())
	}
	for n := next(); n > 0 && !failed; n-- {
		bucket := next()
		c.Latency.add(bucket, next())
	}
	if failed || len(data) > 0 {
		return nil, errCounts
	}
	return c, nil
}

// countsKey names a row of the statistics.
type countsKey struct {
	tenant, subscriptionID string
	start                  int64 // of a minute, in milliseconds
}

// count returns what a batch adds to the statistics: each delivery that ends
// in the minute in which it does, each attempt in that in which it began.
func (b *Batch) count() map[countsKey]*Counts {
	counts := make(map[countsKey]*Counts)
	of := func(tenant, subscriptionID string, at time.Time) *Counts {
		key := countsKey{tenant, subscriptionID, at.Truncate(StatisticsMinute).UnixMilli()}
		if counts[key] == nil {
			counts[key] = &Counts{}
		}
		return counts[key]
	}
	for i := range b.Deliveries {
		if row := &b.Deliveries[i]; row.State != fanfarev1.Delivery_PENDING {
			of(row.Tenant, row.SubscriptionID, row.Ended).addDelivery(row.State)
		}
	}
	for i := range b.Attempts {
		row := &b.Attempts[i]
		of(row.Tenant, row.SubscriptionID, row.Attempt.GetStartTime().AsTime()).addAttempt(row.Attempt)
	}
	return counts
}

// sortedKeys returns the keys of counts in the order of the table, in which
// all that lock rows do so.
func sortedKeys(counts map[countsKey]*Counts) []countsKey {
	return slices.SortedFunc(maps.Keys(counts), func(a, b countsKey) int {
		return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.subscriptionID, b.subscriptionID), cmp.Compare(a.start, b.start))
	})
}

// StatisticsQuery selects counts of one subscription.
type StatisticsQuery struct {
	Tenant, SubscriptionID string
	Start, End             time.Time // [Start, End); both given
}

// StatisticsRow is what happened in one minute, or in one hour.
type StatisticsRow struct {
	Start  time.Time
	Length time.Duration
	Counts *Counts
}

// Statistics implements Store.
func (q queries) Statistics(ctx context.Context, query StatisticsQuery) (found []StatisticsRow, err error) {
	rows, err := q.db.QueryContext(ctx, `SELECT start_ms, length_ms, counts FROM statistics
		WHERE tenant = $1 AND subscription_id = $2 AND start_ms >= $3 AND start_ms < $4 ORDER BY start_ms, length_ms`,
		query.Tenant, query.SubscriptionID, query.Start.Truncate(StatisticsHour).UnixMilli(), ceilMillis(query.End))
	if err != nil {
		return nil, fmt.Errorf("querying statistics: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var start, length int64
		var data []byte
		if err := rows.Scan(&start, &length, &data); err != nil {
			return nil, fmt.Errorf("reading statistics: %w", err)
		}
		row := StatisticsRow{Start: time.UnixMilli(start).UTC(), Length: time.Duration(length) * time.Millisecond}
		if row.Start.Before(query.Start.Truncate(row.Length)) {
			continue // a minute of the first hour
		}
		if row.Counts, err = decodeCounts(data); err != nil {
			return nil, fmt.Errorf("reading statistics of %v: %w", row.Start, err)
		}
		found = append(found, row)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading statistics: %w", err)
	}
	return found, nil
}
