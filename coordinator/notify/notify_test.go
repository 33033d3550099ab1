package notify_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	"github.com/fanfare-dev/fanfare/coordinator/notify"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func firing(id string) *fanfarev1.Alert {
	return &fanfarev1.Alert{
		Name: "tenants/acme/alerts/alr_" + id, Kind: "endpoint_failing", Severity: alert.Warning, State: fanfarev1.Alert_FIRING,
		Subscription: "tenants/acme/subscriptions/sub_" + id, Summary: "9 attempts have failed", StartTime: timestamppb.New(time.Now().Add(-time.Hour)),
		Url: "https://user:word@example.com:8443/hook/T0/token?key=k", LastStatusCode: 503, LastErrorClass: "status", LastError: "<b>away</b>",
		Event: "tenants/acme/events/e1", TraceId: "0af7651916cd43dd8448eb211c80319c", Link: "https://fanfare.example.com/v1/x",
	}
}

func resolved(id string) *fanfarev1.Alert {
	a := firing(id)
	a.State, a.EndTime = fanfarev1.Alert_RESOLVED, timestamppb.Now()
	return a
}

func told(alerts ...*fanfarev1.Alert) alert.Notification {
	return alert.Notification{Group: "tenants/acme", Alerts: alerts}
}

// receiver answers requests without a network, and keeps them.
type receiver struct {
	mu     sync.Mutex
	answer func(n int) (int, error) // guarded by mu; of the n-th request
	bodies []string                 // guarded by mu; of what was answered
	paths  []string                 // guarded by mu
	tries  int                      // guarded by mu
}

// RoundTrip implements http.RoundTripper.
func (r *receiver) RoundTrip(request *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.tries++
	code := http.StatusOK
	if r.answer != nil {
		code, err = r.answer(r.tries)
	}
	if code == http.StatusOK && err == nil {
		r.bodies = append(r.bodies, string(body))
		r.paths = append(r.paths, request.URL.Path)
	}
	r.mu.Unlock()
	if code == 0 { // it hangs
		<-request.Context().Done()
		return nil, request.Context().Err()
	}
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: code, Status: http.StatusText(code), Body: io.NopCloser(strings.NewReader("no")), Request: request}, nil
}

func (r *receiver) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.bodies...)
}

func (r *receiver) tried() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tries
}

func config() notify.Config { return notify.Config{Logger: slog.New(slog.DiscardHandler)} }

// inBubble runs a test with a listener that runs.
func inBubble(t *testing.T, begin func() (notify.Listener, error), test func(t *testing.T, l notify.Listener)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		listener, err := begin()
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- listener.Run(ctx) }()
		test(t, listener)
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}

func slackTo(r *receiver) func() (notify.Listener, error) {
	return func() (notify.Listener, error) {
		return notify.NewQueue(&notify.Slack{URL: "https://hooks.example.com/secret", Client: &http.Client{Transport: r}}, config())
	}
}

func TestSlack(t *testing.T) {
	r := new(receiver)
	inBubble(t, slackTo(r), func(t *testing.T, l notify.Listener) {
		many := make([]*fanfarev1.Alert, 12)
		for i := range many {
			many[i] = firing(fmt.Sprint(i))
		}
		l.Tell("partitions/0", told(many...))
		synctest.Wait()
		var message struct{ Text string }
		if len(r.got()) != 1 || json.Unmarshal([]byte(r.got()[0]), &message) != nil {
			t.Fatalf("got %v, want one message", r.got())
		}
		for _, want := range []string{"endpoint_failing", "sub_9", "HTTP 503", "&lt;b&gt;away&lt;/b&gt;", "<https://fanfare.example.com/v1/x|", "and 2 more", "0af76519"} {
			if !strings.Contains(message.Text, want) {
				t.Errorf("the message lacks %q:\n%s", want, message.Text)
			}
		}
		if strings.Contains(message.Text, "sub_10") {
			t.Error("the message shows more than 10 alerts")
		}
	})
}

// What fails is tried again, in order, and what is refused is not.
func TestQueueTriesAgain(t *testing.T) {
	r := &receiver{answer: func(n int) (int, error) {
		switch n {
		case 1:
			return http.StatusServiceUnavailable, nil
		case 2:
			return 0, nil
		case 4:
			return http.StatusForbidden, nil
		default:
			return http.StatusOK, nil
		}
	}}
	inBubble(t, slackTo(r), func(t *testing.T, l notify.Listener) {
		for _, id := range []string{"a", "b", "c"} {
			l.Tell("partitions/0", told(firing(id)))
		}
		<-time.After(time.Minute)
		got := r.got()
		if len(got) != 2 || !strings.Contains(got[0], "sub_a") || !strings.Contains(got[1], "sub_c") {
			t.Errorf("got %v, want a and c", got)
		}
	})
}

// A sink that is away for long costs a bounded queue, and holds up nobody.
func TestQueueIsBounded(t *testing.T) {
	r := &receiver{answer: func(int) (int, error) { return 0, errors.New("nobody is there") }}
	inBubble(t, slackTo(r), func(t *testing.T, l notify.Listener) {
		begin := time.Now()
		for i := range 10 * notify.QueueLimit {
			l.Tell("partitions/0", told(firing(fmt.Sprint(i))))
		}
		if waited := time.Since(begin); waited > 0 {
			t.Errorf("telling took %v", waited)
		}
		<-time.After(time.Hour)
		if n := r.tried(); n > 80 {
			t.Errorf("it was tried %d times within an hour", n)
		}
		r.mu.Lock()
		r.answer = nil
		r.mu.Unlock()
		<-time.After(time.Hour)
		if n := len(r.got()); n == 0 || n > notify.QueueLimit+1 { // and the one in hand
			t.Errorf("%d notifications arrived, want those that were kept", n)
		}
	})
}

// posted is an alert as Alertmanager gets it.
type posted struct {
	Labels, Annotations map[string]string
	StartsAt, EndsAt    time.Time
	GeneratorURL        string
}

func (r *receiver) posted(t *testing.T) (all [][]posted) {
	t.Helper()
	for _, body := range r.got() {
		var alerts []posted
		if err := json.Unmarshal([]byte(body), &alerts); err != nil {
			t.Fatal(err)
		}
		all = append(all, alerts)
	}
	return all
}

func alertmanagerTo(r *receiver) func() (notify.Listener, error) {
	return func() (notify.Listener, error) {
		return notify.NewAlertmanager("http://alertmanager:9093/", &http.Client{Transport: r}, config())
	}
}

// Alertmanager is told what fires again and again, until it is resolved or
// another looks after it.
func TestAlertmanager(t *testing.T) {
	r := new(receiver)
	inBubble(t, alertmanagerTo(r), func(t *testing.T, l notify.Listener) {
		l.Tell("partitions/0", told(firing("a")))
		l.Remind("partitions/1", []*fanfarev1.Alert{firing("b")})
		synctest.Wait()
		<-time.After(3*time.Minute + time.Second)
		rounds := r.posted(t)
		if len(rounds) < 4 {
			t.Fatalf("Alertmanager was told %d times in three minutes", len(rounds))
		}
		last := rounds[len(rounds)-1]
		if len(last) != 2 || time.Until(last[0].EndsAt) < 3*time.Minute || r.paths[0] != "/api/v2/alerts" {
			t.Errorf("told at last: %+v", last)
		}
		if got := last[0].Labels; got["alertname"] != "FanfareEndpointFailing" || got["tenant"] != "acme" ||
			got["subscription"] != "tenants/acme/subscriptions/sub_a" || got["severity"] != "warning" {
			t.Errorf("labels are %v", got)
		}
		if got := last[0].Annotations; got["trace_id"] == "" || got["last_failure"] != "HTTP 503, status, <b>away</b>" {
			t.Errorf("annotations are %v", got)
		}

		l.Tell("partitions/0", told(resolved("a")))
		l.Forget("partitions/1")
		synctest.Wait()
		rounds = r.posted(t)
		if last := rounds[len(rounds)-1]; len(last) != 1 || last[0].EndsAt.After(time.Now()) {
			t.Errorf("after it was resolved: %+v", last)
		}
		before := len(rounds)
		<-time.After(10 * time.Minute)
		if n := len(r.posted(t)); n != before {
			t.Errorf("Alertmanager was told %d times more of nothing", n-before)
		}
	})
}

// What happens while Alertmanager is away is not lost.
func TestAlertmanagerAway(t *testing.T) {
	r := &receiver{answer: func(int) (int, error) { return http.StatusBadGateway, nil }}
	inBubble(t, alertmanagerTo(r), func(t *testing.T, l notify.Listener) {
		l.Tell("partitions/0", told(firing("a"), firing("b")))
		<-time.After(2 * time.Hour)
		l.Tell("partitions/0", told(resolved("b")))
		<-time.After(2 * time.Hour)
		if n := r.tried(); n > 300 {
			t.Errorf("it was tried %d times in four hours", n)
		}
		r.mu.Lock()
		r.answer = nil
		r.mu.Unlock()
		<-time.After(2 * time.Minute)
		rounds := r.posted(t)
		if len(rounds) == 0 || len(rounds[0]) != 2 || rounds[0][1].EndsAt.After(time.Now()) || rounds[0][0].EndsAt.Before(time.Now()) {
			t.Errorf("told when it was back: %+v", rounds)
		}
	})
}

// No error and no line of the log has the URL in it, which is a secret.
func TestSecretsAreNotSaid(t *testing.T) {
	var log bytes.Buffer
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no way there") }
	slack := &notify.Slack{URL: "https://user:word@hooks.example.com/services/token", Client: &http.Client{Transport: &http.Transport{DialContext: dial}}}
	err := slack.Send(t.Context(), told(firing("a")))
	if err == nil {
		t.Fatal("no error")
	}
	slog.New(slog.NewTextHandler(&log, nil)).Error("it failed", "error", err)
	for _, secret := range []string{"token", "word", "user"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q is in %s", secret, log.String())
		}
	}
}

// Those who need not be allowed to read subscriptions are told which endpoint it
// is, and nothing of its URL that may be a secret.
func TestEndpointsAreNamedByTheirHost(t *testing.T) {
	var log bytes.Buffer
	notify.Log{Logger: slog.New(slog.NewTextHandler(&log, nil))}.Tell("partitions/0", told(firing("a")))
	said := map[string]string{"the log": log.String()}
	for name, to := range map[string]func(*receiver) func() (notify.Listener, error){"Slack": slackTo, "Alertmanager": alertmanagerTo} {
		r := new(receiver)
		inBubble(t, to(r), func(_ *testing.T, l notify.Listener) {
			l.Tell("partitions/0", told(firing("a")))
			synctest.Wait()
			said[name] = strings.Join(r.got(), "\n")
		})
	}
	for name, text := range said {
		if !strings.Contains(text, "https://example.com:8443") {
			t.Errorf("%s does not name the endpoint: %s", name, text)
		}
		for _, secret := range []string{"word", "token", "key=k", "hook/"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s says %q of the URL: %s", name, secret, text)
			}
		}
	}
}

func TestLog(t *testing.T) {
	var out bytes.Buffer
	log := notify.Log{Logger: slog.New(slog.NewTextHandler(&out, nil))}
	many := make([]*fanfarev1.Alert, 30)
	for i := range many {
		many[i] = firing(fmt.Sprint(i))
	}
	log.Tell("partitions/0", told(many...))
	log.Tell("partitions/0", told(resolved("x")))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 12 || !strings.Contains(lines[0], "level=WARN") || !strings.Contains(lines[0], "trace_id=0af7") ||
		!strings.Contains(lines[10], "count=20") || !strings.Contains(lines[11], "level=INFO") {
		t.Errorf("the log says:\n%s", out.String())
	}
}
