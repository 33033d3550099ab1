package worker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	"github.com/fanfare-dev/fanfare/signature"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

const (
	// defaultTimeout bounds an attempt of a subscription that sets no timeout.
	defaultTimeout = 15 * time.Second
	// maxBodyRead is how much of an answer is read: enough that connections
	// of ordinary endpoints are used again. What is longer is cut off, which
	// closes the connection.
	maxBodyRead = 64 << 10
	// maxBodyKept is how much of an answer is kept for people to look at.
	maxBodyKept = 4 << 10
	// maxErrorBytes is how much of an error's text is kept.
	maxErrorBytes = 1 << 10
)

// Error classes beside those of package egress, as Attempt.error_class has
// them.
const (
	classStatus  egress.Class = "status"
	classPayload egress.Class = "payload"
)

// Doer sends one HTTP request. The answer is returned whatever its status,
// redirects included, and reading its body ends when the request's context
// does. *egress.Client is the one to use: a Doer decides where requests may go.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// target is how to send to one endpoint, worked out for all attempts. It never
// changes.
type target struct {
	id       string // of the subscription
	tenant   string
	url      string
	location *url.URL // url, read
	wrong    error    // what is wrong with url; nil if it is right
	mode     payloadMode
	schedule []time.Duration
	timeout  time.Duration
	signers  *signers
	batch    *batching // nil: each event is sent alone
	zip      bool      // bodies are compressed
	trace    bool      // trace context is passed on
	origin   string    // in whose name the endpoint gave its consent; empty: it was not asked
	shown    *credentials
	err      error // why nothing can be sent to it
}

// newTarget reads a subscription. One that cannot be read (a newer
// coordinator may know payload modes that this worker does not) is kept with
// the error, which fails its attempts.
func newTarget(e *linkv1.Endpoint) *target {
	s := e.GetSubscription()
	t := &target{
		id: e.GetSubscriptionId(), tenant: e.GetTenant(), url: s.GetUrl(),
		timeout: defaultTimeout, schedule: defaultSchedule(), trace: !s.GetOmitTraceContext(),
		origin: s.GetHandshake().GetOrigin(), batch: newBatching(s),
	}
	t.location, t.wrong = parseURL(t.url)
	if d := s.GetTimeout().AsDuration(); d > 0 {
		t.timeout = d
	}
	if waits := s.GetRetrySchedule(); len(waits) > 0 {
		t.schedule = make([]time.Duration, len(waits))
		for i, wait := range waits {
			t.schedule[i] = max(wait.AsDuration(), 0)
		}
	}
	if t.mode, t.err = parseMode(s.GetPayloadMode()); t.err != nil {
		return t
	}
	if t.err = checkBatchable(t); t.err != nil {
		return t
	}
	if t.zip, t.err = parseCompression(s.GetCompression()); t.err != nil {
		return t
	}
	if t.shown, t.err = newCredentials(e); t.err != nil {
		return t
	}
	t.signers, t.err = newSigners(e)
	return t
}

// parseURL reads a URL as net/http does.
func parseURL(text string) (*url.URL, error) {
	location, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	location.Host = strings.TrimSuffix(location.Host, ":") // a port that is empty
	return location, nil
}

// request makes a request without a header.
func (t *target) request(ctx context.Context, body []byte) (*http.Request, error) {
	if t.wrong != nil {
		return nil, t.wrong
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.URL, request.Host = t.location, t.location.Host
	return request, nil
}

// answer is what one request met.
type answer struct {
	status     int // 0 if there was no answer
	body       []byte
	header     http.Header
	protocol   string // as in HTTP/1.1; empty if there was no answer
	retryAfter time.Duration
	class      egress.Class // empty: success
	err        error        // nil if there was an answer, and it was read to its end
}

// verdict says what the answer tells about the endpoint. Failures that begin
// before the endpoint could do anything about them count as well: whatever the
// reason, sending it more is of no use now.
func (a *answer) verdict() verdict {
	switch {
	case a.class == egress.ClassNone:
		return verdictSuccess
	case a.class == egress.ClassCanceled, a.class == classPayload:
		return verdictNone
	case a.class != classStatus,
		a.status >= 500,
		a.status == http.StatusRequestTimeout,
		a.status == http.StatusTooManyRequests:
		return verdictFailing
	default:
		return verdictAnswered
	}
}

// attempter makes attempts. Safe for concurrent use.
type attempter struct {
	client    Doer
	userAgent string
	jitter    *jitter
	metrics   *attemptMetrics
	tracer    trace.Tracer // nil: nothing is traced
}

// attempt sends one delivery to one endpoint, once, and returns what that did
// to the delivery. It takes no longer than the target's timeout, and ends early
// when ctx does; the attempt then counts as failed, because the endpoint may
// have acted on it.
func (a *attempter) attempt(ctx context.Context, d *delivery, t *target) (*linkv1.Outcome, verdict) {
	begin := time.Now()
	traced := a.traceAttempt(t, d, begin)
	ctx = traced.context(ctx)
	answer := a.send(ctx, d, t, begin)
	end := time.Now()
	a.metrics.attempted(ctx, answer, end.Sub(begin))
	if answer.class == egress.ClassNone {
		a.metrics.delivered(ctx, d, end)
	}
	traced.end(answer, end)
	return a.judge(d, t, answer, begin, end), answer.verdict()
}

// judge turns an answer into an outcome.
func (a *attempter) judge(d *delivery, t *target, met *answer, begin, end time.Time) *linkv1.Outcome {
	o := d.newOutcome(linkv1.Outcome_DELIVERED)
	o.StartTimeUnixMs = begin.UnixMilli()
	o.LatencyUs = uint64(max(end.Sub(begin).Microseconds(), 0))
	o.StatusCode = uint32(met.status) //nolint:gosec // three digits
	o.ResponseBody = met.body
	if met.class == egress.ClassNone {
		return o
	}
	o.ErrorClass = string(met.class)
	o.Error = errorText(met)
	if met.retryAfter > 0 && (met.status == http.StatusTooManyRequests || met.status == http.StatusServiceUnavailable) {
		o.HoldUntilUnixMs = end.Add(met.retryAfter).UnixMilli()
	}
	wait, more := nextWait(t.schedule, d.step, met.retryAfter, a.jitter)
	if !more || met.status == http.StatusGone {
		o.Kind = linkv1.Outcome_DEAD
		return o
	}
	o.Kind = linkv1.Outcome_RETRY
	o.NextTimeUnixMs = end.Add(wait).UnixMilli()
	return o
}

// errorText says in words what was wrong with an answer.
func errorText(a *answer) string {
	text := fmt.Sprintf("the endpoint answered %d", a.status)
	if phrase := http.StatusText(a.status); phrase != "" {
		text += " " + phrase
	}
	if a.err != nil {
		text = a.err.Error()
	}
	if len(text) > maxErrorBytes {
		text = text[:maxErrorBytes]
	}
	return strings.ToValidUTF8(text, "\uFFFD") // protobuf takes nothing else
}

// send makes the request and reads the answer.
func (a *attempter) send(ctx context.Context, d *delivery, t *target, now time.Time) *answer {
	if t.err != nil {
		return &answer{class: egress.ClassOther, err: t.err}
	}
	payload, err := d.message.render(t.mode)
	if err != nil {
		return &answer{class: classPayload, err: err}
	}
	return a.post(ctx, t, payload, d.message.event.GetId(), now)
}

// post sends a body, with the id that it is signed with, and reads the answer.
func (a *attempter) post(ctx context.Context, t *target, payload *payload, id string, now time.Time) *answer {
	if t.err != nil {
		return &answer{class: egress.ClassOther, err: t.err}
	}
	limited, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	header, body, err := t.sign(payload, id, now)
	if err != nil {
		return &answer{class: egress.ClassOther, err: err}
	}
	header["User-Agent"] = []string{a.userAgent}
	if t.trace {
		passOn(ctx, header)
	}
	return a.exchange(limited, t, header, body)
}

// sign returns the header, signature included, and the body of a request.
func (t *target) sign(payload *payload, id string, now time.Time) (http.Header, []byte, error) {
	signer, err := t.signers.at(now)
	if err != nil {
		return nil, nil, err
	}
	header := make(http.Header, 16)
	if t.trace {
		maps.Copy(header, payload.trace)
	}
	if t.zip {
		payload = payload.compressed()
	}
	maps.Copy(header, payload.header)
	if t.origin != "" {
		header[requestOrigin] = []string{t.origin}
	}
	signer.SetHeaders(header, signature.Message{ID: id, Timestamp: now, Body: payload.body})
	return header, payload.body, nil
}

// exchange sends the request with the target's credentials. If a token is
// refused that was kept from earlier requests it is sent once more with a new
// one: by 401 the endpoint says that it did nothing.
func (a *attempter) exchange(ctx context.Context, t *target, header http.Header, body []byte) *answer {
	met, again := a.request(ctx, t, header, body)
	if again {
		met, _ = a.request(ctx, t, header, body)
	}
	t.shown.maskAnswer(met)
	return met
}

// request makes one request, and reports whether to make it once more. It does not
// change header. What the target is shown takes the place of nothing in it.
func (a *attempter) request(ctx context.Context, t *target, header http.Header, body []byte) (met *answer, again bool) {
	all, kept, err := header, false, error(nil)
	if !t.shown.isEmpty() {
		all = make(http.Header, len(header)+len(t.shown.header)+1)
		if kept, err = t.shown.authorize(ctx, a.client, a.userAgent, all); err != nil {
			return tokenFailure(err), false
		}
		maps.Copy(all, header)
	}
	req, err := t.request(egress.WithProfile(ctx, t.shown.profile), body)
	if err != nil {
		return &answer{class: egress.ClassOther, err: fmt.Errorf("making request: %w", err)}, false
	}
	req.Header = all
	resp, err := a.client.Do(req)
	if err != nil {
		return &answer{class: egress.Classify(err), err: err}, false
	}
	if resp.StatusCode == http.StatusUnauthorized && t.shown.tokens != nil {
		t.shown.tokens.drop(strings.TrimPrefix(all.Get("Authorization"), "Bearer "))
		again = kept
	}
	return readAnswer(resp), again
}

// tokenFailure is the answer of an attempt for which there was no token.
func tokenFailure(err error) *answer {
	class := classAuthentication
	if found := egress.Classify(err); found == egress.ClassEgressDenied || found == egress.ClassCanceled {
		class = found
	}
	return &answer{class: class, err: err}
}

// readAnswer reads an answer and closes it. The status alone does not make a
// success: an answer that breaks off, or does not end in time, is not one
// (RFC 9112, section 8), and the endpoint may have broken off its work too.
func readAnswer(resp *http.Response) *answer {
	met := &answer{status: resp.StatusCode, header: resp.Header, protocol: resp.Proto, retryAfter: retryAfter(resp.Header, time.Now())}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBodyRead))
	if closeErr := resp.Body.Close(); err == nil {
		err = closeErr
	}
	if len(body) > 0 {
		met.body = bytes.Clone(body[:min(len(body), maxBodyKept)]) // what is kept pins no more than itself
	}
	switch {
	case met.status < 200 || met.status > 299:
		met.class = classStatus
	case err != nil:
		met.class, met.err = egress.Classify(err), fmt.Errorf("reading answer: %w", err)
	}
	return met
}
