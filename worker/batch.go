package worker

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

const (
	// defaultBatchBytes and defaultBatchWait are those of a batched subscription
	// that sets none.
	defaultBatchBytes = 1 << 20
	defaultBatchWait  = time.Second
	// maxBatchRequests bounds the requests that one batch is taken apart with:
	// what is left then is handed back, and comes again without what was refused.
	maxBatchRequests = 64

	cloudEventsBatchType = "application/cloudevents-batch+json"
)

// Why an event cannot be in a batch.
var (
	errNoBatchData = errors.New("data is not JSON, which it must be to be sent in a batch")
	errNoBatchMode = errors.New("events cannot be batched in the mode cloudevents-binary")
)

// batching is how the deliveries of an endpoint are sent together.
type batching struct {
	count int
	bytes int
	wait  time.Duration
	// ordered: one batch at a time, and nothing behind what was not delivered.
	ordered bool
}

// newBatching reads a subscription; nil if it is not batched.
func newBatching(s *fanfarev1.Subscription) *batching {
	if s.GetBatchCount() == 0 {
		return nil
	}
	b := &batching{
		count: int(s.GetBatchCount()), bytes: int(s.GetBatchBytes()), wait: defaultBatchWait,
		ordered: s.GetOrdering() == "key" || s.GetOrdering() == "subscription",
	}
	if b.bytes == 0 {
		b.bytes = defaultBatchBytes
	}
	if s.GetBatchWait() != nil {
		b.wait = max(s.GetBatchWait().AsDuration(), 0)
	}
	return b
}

// element is a delivery and what of a batch's body it is.
type element struct {
	delivery *delivery
	body     []byte
}

// renderElement returns what of a batch's body an event is.
func renderElement(m *message, mode payloadMode) ([]byte, error) {
	if mode == modeBinary {
		return nil, errNoBatchMode
	}
	p, err := m.render(mode)
	if err != nil {
		return nil, err
	}
	switch mode {
	case modeStandard: // alone it has its id in a header
		body := append([]byte(`{"id":`), appendString(nil, m.event.GetId())...)
		return append(append(body, ','), p.body[1:]...), nil
	case modeRaw:
		if !m.isJSON() {
			return nil, errNoBatchData
		}
	case modeStructured, modeBinary:
	}
	return p.body, nil
}

// newBatchPayload puts elements together, and returns the id of the batch: it
// is made of those of its events, and so the same whenever it is sent.
func newBatchPayload(elements []element, mode payloadMode) (id string, p *payload) {
	hash, size := sha256.New(), 2
	for _, e := range elements {
		_, _ = hash.Write([]byte(e.delivery.message.event.GetId() + "\n")) // it never fails
		size += len(e.body) + 1
	}
	p = &payload{body: make([]byte, 0, size), header: contentType(jsonType)}
	if mode == modeStructured {
		p.header = contentType(cloudEventsBatchType)
	}
	for i, e := range elements {
		p.body = append(p.body, "[,"[min(i, 1)])
		p.body = append(p.body, e.body...)
	}
	p.body = append(p.body, ']')
	sum := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(hash.Sum(nil)[:16])
	return "batch_" + strings.ToLower(sum), p
}

// cut returns how many elements, one at the least, fit into a body.
func cut(elements []element, bytes int) int {
	size := 2
	for i, e := range elements {
		if size += len(e.body) + 1; size > bytes && i > 0 {
			return i
		}
	}
	return len(elements)
}

// batchAttempt is the attempt of a batch.
type batchAttempt struct {
	attempter *attempter
	target    *target
	outcomes  map[*delivery]*linkv1.Outcome
	verdict   verdict
	requests  int
}

// attemptBatch sends deliveries of one endpoint together, and returns what that
// did to each; those without an outcome were not attempted. What is refused for
// its content is halved and sent again at once, until it is known which event
// is refused. A failure of the endpoint ends it.
func (a *attempter) attemptBatch(ctx context.Context, deliveries []*delivery, t *target) (map[*delivery]*linkv1.Outcome, verdict) {
	b := &batchAttempt{
		attempter: a, target: t, outcomes: make(map[*delivery]*linkv1.Outcome, len(deliveries)), verdict: verdictNone,
	}
	var elements []element
	for _, d := range deliveries {
		body, err := renderElement(d.message, t.mode)
		if err == nil {
			elements = append(elements, element{d, body})
			continue
		}
		now := time.Now()
		b.outcomes[d] = a.judge(d, t, &answer{class: classPayload, err: err}, now, now)
		if t.batch.ordered {
			break
		}
	}
	b.sendAll(ctx, elements)
	return b.outcomes, b.verdict
}

// sendAll sends elements in as many requests as they need, and reports whether
// it may go on.
func (b *batchAttempt) sendAll(ctx context.Context, elements []element) bool {
	for len(elements) > 0 {
		n := cut(elements, b.target.batch.bytes)
		if !b.send(ctx, elements[:n]) {
			return false
		}
		elements = elements[n:]
	}
	return true
}

// send sends elements in one request, and their halves if that is refused.
func (b *batchAttempt) send(ctx context.Context, elements []element) bool {
	if b.requests++; b.requests > maxBatchRequests {
		return false
	}
	begin := time.Now()
	id, body := newBatchPayload(elements, b.target.mode)
	met := b.request(ctx, elements, body, id, begin)
	end := time.Now()
	b.verdict = met.verdict()
	if met.refusesContent() && len(elements) > 1 {
		half := len(elements) / 2
		return b.send(ctx, elements[:half]) && b.send(ctx, elements[half:])
	}
	for _, e := range elements {
		b.outcomes[e.delivery] = b.attempter.judge(e.delivery, b.target, met, begin, end)
		if met.status == http.StatusGone {
			break // it is the endpoint that is gone: one is enough to say so
		}
	}
	switch b.verdict {
	case verdictSuccess:
		return true
	case verdictAnswered:
		return met.refusesContent() && !b.target.batch.ordered
	case verdictFailing, verdictNone:
	}
	return false
}

// request makes one request, and measures it.
func (b *batchAttempt) request(ctx context.Context, elements []element, body *payload, id string, begin time.Time) *answer {
	a, deliveries := b.attempter, make([]*delivery, len(elements))
	for i, e := range elements {
		deliveries[i] = e.delivery
	}
	traced := a.traceRequest(b.target, deliveries, begin)
	ctx = traced.context(ctx)
	met := a.post(ctx, b.target, body, id, begin)
	end := time.Now()
	a.metrics.attempted(ctx, met, end.Sub(begin))
	if met.class == egress.ClassNone {
		for _, d := range deliveries {
			a.metrics.delivered(ctx, d, end)
		}
	}
	traced.end(met, end)
	return met
}

// refusesContent reports whether an answer may be because of what was sent.
func (a *answer) refusesContent() bool {
	switch a.status {
	case http.StatusRequestTimeout, http.StatusGone, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return a.class == classStatus && a.status >= 400 && a.status < 500
}

// checkBatchable says why a target cannot be sent batches.
func checkBatchable(t *target) error {
	if t.batch != nil && t.mode == modeBinary {
		return fmt.Errorf("reading batching: %w", errNoBatchMode)
	}
	return nil
}
