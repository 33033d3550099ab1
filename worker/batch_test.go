package worker

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/signature"
)

// batchReceiver answers batches, and remembers them.
type batchReceiver struct {
	t      *testing.T
	status func(ids []string) int
	ids    []string // of the batches
	events [][]string
	types  []string
}

func (b *batchReceiver) Do(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	secret, err := signature.ParseSecret(testSecret)
	if err != nil {
		return nil, err
	}
	if err := signature.Verify([]signature.Secret{secret}, r.Header, body, time.Now(), time.Minute); err != nil {
		b.t.Errorf("the signature of a batch: %v", err)
	}
	var events []map[string]any
	if err := json.Unmarshal(body, &events); err != nil {
		b.t.Errorf("the body of a batch: %v: %s", err, body)
	}
	var ids []string
	for _, event := range events {
		id, _ := event["id"].(string)
		ids = append(ids, id)
	}
	b.ids = append(b.ids, r.Header.Get("Webhook-Id"))
	b.events = append(b.events, ids)
	b.types = append(b.types, r.Header.Get("Content-Type"))
	return &http.Response{StatusCode: b.status(ids), Header: http.Header{}, Body: http.NoBody}, nil
}

// batchOf returns a target and deliveries e0, e1, … for it.
func batchOf(t *testing.T, n int, config *fanfarev1.Subscription) (*target, []*delivery) {
	t.Helper()
	config.Url = "https://example.com/"
	deliveries := make([]*delivery, n)
	for i := range deliveries {
		event := &fanfarev1.Event{Id: fmt.Sprintf("e%d", i), Type: "order.created", Data: []byte(`{"id":"` + fmt.Sprintf("e%d", i) + `"}`)}
		d := dispatchOf(t, event)
		deliveries[i] = &delivery{ref: ref{3, 4, uint32(i)}, attempt: 1, step: 1, message: newMessage(d)}
	}
	return newTarget(&linkv1.Endpoint{Number: 3, Tenant: "acme", Secrets: []string{testSecret}, Subscription: config}), deliveries
}

func TestAttemptBatch(t *testing.T) {
	containing := func(status int, bad ...string) func([]string) int {
		return func(ids []string) int {
			if slices.ContainsFunc(bad, func(id string) bool { return slices.Contains(ids, id) }) {
				return status
			}
			return http.StatusOK
		}
	}
	always := func(status int) func([]string) int { return func([]string) int { return status } }
	count := func(c *fanfarev1.Subscription) *fanfarev1.Subscription { c.BatchCount = 100; return c }
	tests := []struct {
		name     string
		config   *fanfarev1.Subscription
		status   func(ids []string) int
		want     string // of each delivery: Delivered, Retry, Dead or - for not attempted
		requests int    // 0: any number
	}{
		{"all is well", &fanfarev1.Subscription{}, always(200), "DDDDDDDD", 1},
		{"cloudevents", &fanfarev1.Subscription{PayloadMode: "cloudevents-structured"}, always(204), "DDDDDDDD", 1},
		{"raw", &fanfarev1.Subscription{PayloadMode: "raw"}, always(200), "DDDDDDDD", 1},
		{"one is poison", &fanfarev1.Subscription{}, containing(400, "e5"), "DDDDDRDD", 7},
		{"two are", &fanfarev1.Subscription{}, containing(422, "e0", "e7"), "RDDDDDDR", 0},
		{"one is, in order", &fanfarev1.Subscription{Ordering: "key"}, containing(400, "e5"), "DDDDDR--", 0},
		{"all are", &fanfarev1.Subscription{}, always(413), "RRRRRRRR", 15},
		{"the endpoint fails", &fanfarev1.Subscription{}, always(503), "RRRRRRRR", 1},
		{"it has too much to do", &fanfarev1.Subscription{}, always(429), "RRRRRRRR", 1},
		{"it sends elsewhere", &fanfarev1.Subscription{}, always(302), "RRRRRRRR", 1},
		{"it is gone", &fanfarev1.Subscription{}, always(410), "X-------", 1},
		{"it fails after a while", &fanfarev1.Subscription{BatchBytes: 200}, containing(500, "e3"), "DDRR----", 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			receiver := &batchReceiver{t: t, status: tt.status}
			target, deliveries := batchOf(t, 8, count(tt.config))
			outcomes, _ := newTestAttempter(t, receiver).attemptBatch(t.Context(), deliveries, target)
			var got strings.Builder
			for _, d := range deliveries {
				o := outcomes[d]
				switch {
				case o == nil:
					got.WriteString("-")
				case o.GetKind() == linkv1.Outcome_DELIVERED:
					got.WriteString("D")
				case o.GetKind() == linkv1.Outcome_RETRY:
					got.WriteString("R")
				case o.GetKind() == linkv1.Outcome_DEAD:
					got.WriteString("X")
				}
			}
			if got.String() != tt.want {
				t.Errorf("outcomes are %s, want %s: %v", got.String(), tt.want, receiver.events)
			}
			if tt.requests > 0 && len(receiver.ids) != tt.requests {
				t.Errorf("%d requests, want %d: %v", len(receiver.ids), tt.requests, receiver.events)
			}
			want := jsonType
			if tt.config.GetPayloadMode() == "cloudevents-structured" {
				want = cloudEventsBatchType
			}
			if receiver.types[0] != want {
				t.Errorf("the content type is %s, want %s", receiver.types[0], want)
			}
		})
	}
}

// The id of a batch is that of its events, whenever it is sent.
func TestBatchID(t *testing.T) {
	receiver := &batchReceiver{t: t, status: func([]string) int { return 200 }}
	for _, n := range []int{3, 3, 2} {
		target, deliveries := batchOf(t, n, &fanfarev1.Subscription{BatchCount: 5})
		newTestAttempter(t, receiver).attemptBatch(t.Context(), deliveries, target)
	}
	if !strings.HasPrefix(receiver.ids[0], "batch_") || receiver.ids[0] != receiver.ids[1] || receiver.ids[0] == receiver.ids[2] {
		t.Errorf("the ids are %v", receiver.ids)
	}
}

// An event that cannot be in a batch fails alone.
func TestBatchOfWhatIsNotJSON(t *testing.T) {
	receiver := &batchReceiver{t: t, status: func([]string) int { return 200 }}
	target, deliveries := batchOf(t, 3, &fanfarev1.Subscription{BatchCount: 5, PayloadMode: "raw"})
	deliveries[1].message.event.Data = []byte("no JSON")
	outcomes, _ := newTestAttempter(t, receiver).attemptBatch(t.Context(), deliveries, target)
	if o := outcomes[deliveries[1]]; o.GetErrorClass() != string(classPayload) || len(receiver.events[0]) != 2 {
		t.Errorf("sent %v, and the other ended with %v", receiver.events, o)
	}
}

// A batch is sent when it is full, when it is large, or when its first has
// waited for long enough; in order one at a time.
func TestQueuesBatch(t *testing.T) {
	batched := func(ordering string) *route {
		return newRoute(&linkv1.Endpoint{Secrets: []string{testSecret}, Subscription: &fanfarev1.Subscription{
			Ordering: ordering, BatchCount: 4, BatchBytes: 1000, BatchWait: durationpb.New(time.Second),
		}})
	}
	q := newQueues(64)
	q.put(eid(1), batched("none"))
	sequence, now := uint64(0), int64(10_000)
	push := func(n int, size uint64) {
		for range n {
			sequence++
			q.push(eid(1), &delivery{ref: ref{subscription: 1, sequence: sequence}, size: size}, now)
		}
	}
	sizes := func() (all []int) {
		for s, ok := q.next(now); ok; s, ok = q.next(now) {
			all = append(all, 1+len(s.rest))
		}
		return all
	}
	check := func(what string, want ...int) {
		t.Helper()
		if got := sizes(); !slices.Equal(got, want) {
			t.Errorf("%s: batches of %v, want %v", what, got, want)
		}
	}
	push(3, 1)
	check("three of four")
	if at, ok := q.wake(); !ok || at != now+1000 {
		t.Errorf("it looks again at %d (%t), want %d", at, ok, now+1000)
	}
	push(6, 1)
	check("nine", 4, 4)
	now += 999
	check("the ninth has not waited long enough")
	now++
	check("it has", 1)
	push(2, 600)
	check("large ones", 2)

	q.remove(eid(1))
	q = newQueues(64)
	q.put(eid(1), batched("subscription"))
	push(9, 1)
	check("nine in order", 4)
	q.done(eid(1), verdictSuccess)
	check("the next", 4)
	push(2, 1)
	if back := q.remove(eid(1)); len(back) != 3 {
		t.Errorf("%d come back, want 3", len(back))
	}
	if _, ok := q.wake(); ok {
		t.Error("it looks again for an endpoint that is gone")
	}
}
