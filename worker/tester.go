package worker

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

// Tester sends single events as a worker does, outside of all deliveries. Safe
// for concurrent use.
type Tester struct{ attempter *attempter }

// NewTester returns a Tester that sends by client, under the program's version.
func NewTester(client Doer, version string) *Tester {
	return &Tester{&attempter{client: client, userAgent: "Fanfare/" + cmp.Or(version, "devel")}}
}

// Test sends the event of a dispatch to an endpoint, once, and tells what was
// sent, without credentials, and what came back.
func (t *Tester) Test(ctx context.Context, endpoint *linkv1.Endpoint, dispatch *linkv1.Dispatch) *fanfarev1.SendTestResponse {
	return t.show(ctx, newTarget(endpoint), newMessage(dispatch), (*target).renderAlone)
}

// Forward is Test for an event of a delivery: to an endpoint that is sent
// batches it goes as it does there, in a batch of its own.
func (t *Tester) Forward(ctx context.Context, endpoint *linkv1.Endpoint, dispatch *linkv1.Dispatch) *fanfarev1.SendTestResponse {
	to := newTarget(endpoint)
	render := (*target).renderAlone
	if to.batch != nil {
		render = (*target).renderBatch
	}
	return t.show(ctx, to, newMessage(dispatch), render)
}

// rendering makes the body of a request, and the id that it is signed with.
type rendering func(*target, *message) (id string, p *payload, err error)

func (t *target) renderAlone(m *message) (string, *payload, error) {
	p, err := m.render(t.mode)
	return m.event.GetId(), p, err
}

func (t *target) renderBatch(m *message) (string, *payload, error) {
	body, err := renderElement(m, t.mode)
	if err != nil {
		return "", nil, err
	}
	id, p := newBatchPayload([]element{{&delivery{message: m}, body}}, t.mode)
	return id, p, nil
}

// show sends and says what was sent and what came back.
func (t *Tester) show(ctx context.Context, target *target, message *message, render rendering) *fanfarev1.SendTestResponse {
	begin := time.Now()
	shown := &fanfarev1.SendTestResponse{EventId: message.event.GetId(), Url: target.url}
	met := t.send(ctx, target, message, render, shown)
	shown.Latency = durationpb.New(time.Since(begin))
	shown.StatusCode = int32(met.status) //nolint:gosec // three digits
	shown.ResponseHeaders = target.flat(met.header)
	shown.ResponseBody = met.body
	if met.class != egress.ClassNone {
		shown.ErrorClass, shown.Error = string(met.class), errorText(met)
	}
	return shown
}

// send makes the request, and notes what it is.
func (t *Tester) send(ctx context.Context, target *target, message *message, render rendering, shown *fanfarev1.SendTestResponse) *answer {
	if target.err != nil {
		return &answer{class: egress.ClassOther, err: target.err}
	}
	id, payload, err := render(target, message)
	if err != nil {
		return &answer{class: classPayload, err: err}
	}
	header, body, err := target.sign(payload, id, time.Now())
	if err != nil {
		return &answer{class: egress.ClassOther, err: err}
	}
	header["User-Agent"] = []string{t.attempter.userAgent}
	shown.RequestBody, shown.RequestHeaders = body, target.flat(header)
	for name := range target.shown.header {
		shown.RequestHeaders[name] = maskText
	}
	limited, cancel := context.WithTimeout(ctx, target.timeout)
	defer cancel()
	return t.attempter.exchange(limited, target, header, body)
}

// flat returns headers with one text each, secrets masked.
func (t *target) flat(header http.Header) map[string]string {
	flat := make(map[string]string, len(header))
	for name, values := range header {
		text := strings.ToValidUTF8(strings.Join(values, ", "), "\uFFFD") // protobuf takes nothing else
		if t.shown != nil {
			text = string(t.shown.mask([]byte(text)))
		}
		flat[strings.ToValidUTF8(name, "\uFFFD")] = text
	}
	return flat
}
