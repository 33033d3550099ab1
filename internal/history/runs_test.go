package history

import (
	"fmt"
	"testing"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// What an earlier version has written as rows is read together with the runs,
// page by page.
func TestAttemptsOfBothKinds(t *testing.T) {
	store, err := OpenSQLite(t.Context(), InMemory)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	key := DeliveryKey{EventKey: EventKey{Partition: 1, Sequence: 7, Index: 70}, Subscription: 3}
	for number := range 2 {
		if _, err := store.writer.ExecContext(t.Context(), `INSERT INTO attempts
			(tenant, partition, sequence, idx, subscription, number, result, start_ms, latency_us,
			status_code, error_class, error, response_body, worker, next_attempt_ms)
			VALUES ('acme', 1, 7, 70, 3, $1, 2, 1000, 5, 503, 'status', '', '', 'old', 0)`, number+1); err != nil {
			t.Fatal(err)
		}
	}
	batch := Batch{Partition: 1, Sequence: 9}
	for _, number := range []int32{3, 4} {
		for _, index := range []uint32{69, 70} { // both are in one run
			of := key
			of.Index = index
			batch.Attempts = append(batch.Attempts, AttemptRow{
				Key: of, Tenant: "acme", SubscriptionID: "sub", Attempt: &fanfarev1.Attempt{Number: number, Worker: fmt.Sprint("new", index)},
			})
		}
	}
	if err := store.Write(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	var got []string
	page := Page{Size: 3}
	for {
		attempts, next, err := store.Attempts(t.Context(), "acme", key, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range attempts {
			got = append(got, fmt.Sprint(a.GetNumber(), " ", a.GetWorker()))
		}
		if page.Token = next; next == "" {
			break
		}
	}
	if want := "[1 old 2 old 3 new70 4 new70]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// FuzzFindInRun: whatever is in the file, reading ends with attempts or an error.
func FuzzFindInRun(f *testing.F) {
	r := run{}
	key := DeliveryKey{EventKey: EventKey{Index: 5}, Subscription: 3}
	if err := r.add(&AttemptRow{Key: key, Attempt: &fanfarev1.Attempt{Number: 1, ResponseBody: "ok"}}); err != nil {
		f.Fatal(err)
	}
	f.Add(r.attempts)
	f.Add(r.attempts[:len(r.attempts)-1])
	f.Fuzz(func(_ *testing.T, data []byte) {
		_ = findInRun(data, key, func(*fanfarev1.Attempt) {})
	})
}
