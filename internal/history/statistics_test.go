package history

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// A quantile is at least the true one, and at most a sixteenth more.
func TestQuantile(t *testing.T) {
	var all []time.Duration
	var h Histogram
	for us := 1; us < 40_000_000; us += 1 + us/37 {
		d := time.Duration(us) * time.Microsecond
		all = append(all, d)
		h.add(bucketOf(d), 1)
	}
	slices.Sort(all)
	for _, q := range []float64{0.001, 0.1, 0.5, 0.95, 0.99, 1} {
		want := all[int(math.Ceil(q*float64(len(all))))-1]
		if got := h.Quantile(q); got < want || got > want+want/16 {
			t.Errorf("quantile %v is %v, want %v to %v", q, got, want, want+want/16)
		}
	}
	if got := Histogram(nil).Quantile(0.5); got != 0 {
		t.Errorf("the quantile of nothing is %v", got)
	}
}

// Buckets follow one another without a gap.
func TestBuckets(t *testing.T) {
	for us := range int64(100_000) {
		d := time.Duration(us) * time.Microsecond
		bucket := bucketOf(d)
		if next := bucketOf(d + time.Microsecond); next != bucket && next != bucket+1 {
			t.Fatalf("%v is in bucket %d, the next microsecond in %d", d, bucket, next)
		}
		if end := endOf(bucket); end < d || bucketOf(end) != bucket || bucketOf(end+time.Microsecond) != bucket+1 {
			t.Fatalf("%v is in bucket %d, which ends at %v", d, bucket, end)
		}
	}
}

func FuzzDecodeCounts(f *testing.F) {
	c := &Counts{Delivered: 1, Dead: 2, Expired: 3, Cancelled: 1 << 40, Attempts: 9, Failed: 4}
	f.Add((&Counts{}).encode())
	for i := range 5 {
		c.addAttempt(&fanfarev1.Attempt{StatusCode: int32(i * 100), ErrorClass: "timeout"})
		f.Add(c.encode())
	}
	f.Add([]byte{})
	f.Add([]byte{countsVersion, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 15})
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeCounts(data)
		if err != nil {
			return
		}
		again, err := decodeCounts(c.encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, again, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
		c.Latency.Quantile(0.5) // whatever is in it
	})
}

func TestTraceOf(t *testing.T) {
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	for given, want := range map[string]string{
		"00-" + trace + "-00f067aa0ba902b7-01":       trace,
		"01-" + trace + "-00f067aa0ba902b7-01-later": trace,
		"":                                     "",
		"ff-" + trace + "-00f067aa0ba902b7-01": "",
		"00-" + trace + "-00f067aa0ba902b7":    "",
		"00-" + trace + "-0000000000000000-01": "",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01": "",
		"00-" + trace[1:] + "-00f067aa0ba902b7-01":                "",
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01": "",
	} {
		if got := traceOf(&fanfarev1.Event{Extensions: map[string]string{"traceparent": given}}); got != want {
			t.Errorf("trace of %q: got %q, want %q", given, got, want)
		}
	}
}

func TestRetentionValidate(t *testing.T) {
	const day = 24 * time.Hour
	for _, test := range []struct {
		name      string
		retention Retention
		wrong     bool
	}{
		{"default", Retention{}, false},
		{"short deliveries shorten the rest", Retention{Deliveries: day}, false},
		{"payloads longer", Retention{Payloads: 31 * day}, true},
		{"attempts longer", Retention{Attempts: 2 * day, Deliveries: day}, true},
		{"too short", Retention{Statistics: time.Minute}, true},
		{"negative", Retention{Payloads: -day}, true},
	} {
		if err := test.retention.Validate(); (err != nil) != test.wrong {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
