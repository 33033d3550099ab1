package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/signature"
)

const (
	// patience is how long a test waits for what should take moments: a
	// loaded machine under the race detector is slow, and must not fail.
	patience = 3 * time.Minute
	// look is the time between two looks at what is waited for.
	look = 20 * time.Millisecond
	// stopLimit is what `dev` promises: a stop takes no longer.
	stopLimit = 10 * time.Second
)

// eventually waits until done, and fails the test if that takes too long.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if !poll(ctx, done) {
		t.Fatalf("waited %v in vain: %s", patience, what)
	}
}

// poll reports whether done before ctx ended.
func poll(ctx context.Context, done func() bool) bool {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
	return true
}

// recording keeps what a process writes.
type recording struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

// Write implements io.Writer.
func (s *recording) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

// String returns what was written so far.
func (s *recording) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// process is a command of this binary that runs beside the test.
type process struct {
	cmd    *exec.Cmd
	stdout recording
	stderr recording
	ended  chan struct{} // closed once it has ended
	err    error         // of Wait; to be read once ended is closed
}

// startProcess runs `fanfare args…` until it ends by itself, by a signal, or
// with the test.
func startProcess(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.CommandContext(t.Context(), "fanfare", args...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		<-p.ended // the end of the test's context has killed it
		if t.Failed() {
			t.Logf("fanfare %s wrote, at the end:\n%s", strings.Join(args, " "), lastLines(p.stderr.String()))
		}
	})
	return p
}

func lastLines(text string) string {
	const most = 40
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "")
}

func (p *process) signal(t *testing.T, signal os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatalf("signalling: %v", err)
	}
}

// wait waits for the end of the process and returns its exit code, -1 if it
// was killed.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("the process still runs after %v", patience)
		return 0
	}
}

// dev is a `fanfare dev`.
type dev struct {
	*process
	grpc string
	http string // with scheme
	conn *grpc.ClientConn
}

// startDev runs `fanfare dev` on a folder, on ports that are free, and waits
// until it says that it is ready.
func startDev(t *testing.T, dataDir string, args ...string) *dev {
	t.Helper()
	d := launchDev(t, dataDir, args...)
	d.awaitReady(t)
	return d
}

// launchDev runs `fanfare dev` and does not wait.
func launchDev(t *testing.T, dataDir string, args ...string) *dev {
	t.Helper()
	return &dev{process: startProcess(t, append([]string{
		"dev", "--data-dir", dataDir, "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--log-format", "json",
	}, args...)...)}
}

func (d *dev) awaitReady(t *testing.T) {
	t.Helper()
	d.awaitServing(t, `"msg":"ready","grpc":"([^"]+)","http":"([^"]+)"`)
}

// awaitServing waits for a line of the log that says where the process serves
// gRPC and HTTP, and connects to it.
func (d *dev) awaitServing(t *testing.T, line string) {
	t.Helper()
	ready := regexp.MustCompile(line)
	eventually(t, "dev says that it is ready", func() bool {
		select {
		case <-d.ended:
			t.Fatalf("dev ended before it was ready: %v\n%s", d.err, d.stderr.String())
		default:
		}
		match := ready.FindStringSubmatch(d.stderr.String())
		if match == nil {
			return false
		}
		d.grpc, d.http = match[1], match[2]
		return true
	})
	conn, err := grpc.NewClient(d.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	d.conn = conn
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
}

// stop ends the process with SIGTERM, and wants that to be done in time, and
// to be a success.
func (d *dev) stop(t *testing.T) {
	t.Helper()
	began := time.Now()
	d.signal(t, syscall.SIGTERM)
	code := d.wait(t)
	took := time.Since(began)
	t.Logf("stopped in %v", took.Round(time.Millisecond))
	if code != exitOK {
		t.Errorf("exit code %d after SIGTERM:\n%s", code, lastLines(d.stderr.String()))
	}
	if took > stopLimit {
		t.Errorf("took %v to stop, %v are promised", took, stopLimit)
	}
}

func (d *dev) events() fanfarev1.EventServiceClient { return fanfarev1.NewEventServiceClient(d.conn) }

func (d *dev) subscriptions() fanfarev1.SubscriptionServiceClient {
	return fanfarev1.NewSubscriptionServiceClient(d.conn)
}

func (d *dev) deliveries() fanfarev1.DeliveryServiceClient {
	return fanfarev1.NewDeliveryServiceClient(d.conn)
}

// subscribe creates a subscription.
func (d *dev) subscribe(t *testing.T, s *fanfarev1.Subscription) *fanfarev1.Subscription {
	t.Helper()
	created, err := d.subscriptions().CreateSubscription(t.Context(),
		&fanfarev1.CreateSubscriptionRequest{Parent: demoTenant, Subscription: s})
	if err != nil {
		t.Fatal(err)
	}
	return created
}

// publish publishes one event for each id, with the id as its data.
func (d *dev) publish(t *testing.T, eventType string, ids ...string) {
	t.Helper()
	request := &fanfarev1.PublishRequest{Parent: demoTenant}
	for _, id := range ids {
		request.Events = append(request.Events, &fanfarev1.Event{Id: id, Type: eventType, Data: []byte(`"` + id + `"`)})
	}
	if _, err := d.events().Publish(t.Context(), request); err != nil {
		t.Fatal(err)
	}
}

// count returns how many deliveries there are of a subscription in a state, or
// -1 if the history has still to catch up.
func (d *dev) count(t *testing.T, subscription string, state fanfarev1.Delivery_State) int {
	t.Helper()
	count := 0
	request := &fanfarev1.ListDeliveriesRequest{
		Parent: demoTenant, Subscription: subscription, State: state, PageSize: demoPage,
	}
	for {
		page, err := d.deliveries().ListDeliveries(t.Context(), request)
		if codeOf(err) == codes.Unavailable {
			return -1
		}
		if err != nil {
			t.Fatal(err)
		}
		count += len(page.GetDeliveries())
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return count
		}
	}
}

// cli runs a client command against the process and returns what it printed.
func (d *dev) cli(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "fanfare", append([]string{"--address", d.grpc}, args...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("fanfare %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String()
}

// call makes an HTTP request and returns the answer's status and body.
func (d *dev) call(t *testing.T, method, path string, header http.Header, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, d.http+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		request.Header = header
	}
	response, err := new(http.Client).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

// get reads a path as JSON into answer.
func (d *dev) get(t *testing.T, path string, answer any) {
	t.Helper()
	status, body := d.call(t, http.MethodGet, path, nil, "")
	if status != http.StatusOK {
		t.Fatalf("GET %s: status %d: %s", path, status, body)
	}
	if err := json.Unmarshal([]byte(body), answer); err != nil {
		t.Fatalf("GET %s: %v in %s", path, err, body)
	}
}

// webhook is a request that a receiver got.
type webhook struct {
	path   string
	id     string
	header http.Header
	body   []byte
	at     time.Time
}

// receiver is an endpoint that remembers what it got.
type receiver struct {
	url    string
	answer func(http.ResponseWriter, *http.Request) // nil: 200 at once

	mu  sync.Mutex
	got []webhook // guarded by mu; in the order of arrival
}

// newReceiver serves an endpoint until the test ends.
func newReceiver(t *testing.T, answer func(http.ResponseWriter, *http.Request)) *receiver {
	r := &receiver{answer: answer}
	server := httptest.NewServer(r)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	r.url = server.URL
	return r
}

// ServeHTTP implements http.Handler.
func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	got := webhook{path: request.URL.Path, id: request.Header.Get(signature.HeaderID), header: request.Header, at: time.Now()}
	var err error
	if got.body, err = io.ReadAll(request.Body); err != nil {
		return // whoever sent it is gone; it counts for nothing
	}
	r.mu.Lock()
	r.got = append(r.got, got)
	r.mu.Unlock()
	if r.answer != nil {
		r.answer(w, request)
	}
}

// webhooks returns what came to a path so far, in the order of arrival.
func (r *receiver) webhooks(path string) []webhook {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []webhook
	for _, w := range r.got {
		if w.path == path {
			all = append(all, w)
		}
	}
	return all
}

// total returns how many requests came.
func (r *receiver) total() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

// arrivals counts how often each id came to a path.
func (r *receiver) arrivals(path string) map[string]int {
	counts := make(map[string]int)
	for _, w := range r.webhooks(path) {
		counts[w.id]++
	}
	return counts
}

// verify fails the test unless everything that came to a path is signed.
func (r *receiver) verify(t *testing.T, path, secret string) {
	t.Helper()
	parsed, err := signature.ParseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range r.webhooks(path) {
		if err := signature.Verify([]signature.Secret{parsed}, w.header, w.body, w.at, 0); err != nil {
			t.Errorf("%s of %s: %v", w.id, path, err)
		}
	}
}

// TestDev publishes in every way there is, and looks in every way there is.
func TestDev(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir())
	r := newReceiver(t, nil)
	orders := d.subscribe(t, &fanfarev1.Subscription{Url: r.url + "/orders", EventTypes: []string{"order.*"}})
	all := d.subscribe(t, &fanfarev1.Subscription{Url: r.url + "/all", PayloadMode: "cloudevents-binary"})

	ids := map[string]string{ // :: id -> data
		"by-grpc": `{"by":"grpc"}`, "by-http": `{"by":"http"}`, "by-cli": `{"by":"cli"}`,
	}
	if _, err := d.events().Publish(t.Context(), &fanfarev1.PublishRequest{Parent: demoTenant, Events: []*fanfarev1.Event{
		{Id: "by-grpc", Type: "order.created", Data: []byte(ids["by-grpc"])},
		{Id: "other", Type: "invoice.paid", Data: []byte(`{}`)},
	}}); err != nil {
		t.Fatal(err)
	}
	status, body := d.call(t, http.MethodPost, "/v1/tenants/default/events", http.Header{
		"Ce-Type": {"order.created"}, "Ce-Id": {"by-http"}, "Content-Type": {"application/json"},
	}, ids["by-http"])
	if result := `{"results":[{"id":"by-http","duplicate":false}]}`; status != http.StatusAccepted || compact(t, body) != result {
		t.Errorf("CloudEvents over HTTP: %d %s, want 202 %s", status, body, result)
	}
	d.cli(t, "publish", "--type", "order.created", "--id", "by-cli", "--data", ids["by-cli"])

	eventually(t, "all have arrived", func() bool {
		return len(r.arrivals("/orders")) == 3 && len(r.arrivals("/all")) == 4
	})
	checkOrders(t, r, ids)
	r.verify(t, "/orders", orders.GetSecret())
	r.verify(t, "/all", all.GetSecret())
	t.Run("REST", func(t *testing.T) { checkREST(t, d, lastPart(orders.GetName())) })
	t.Run("CLI", func(t *testing.T) { checkCLI(t, d, lastPart(orders.GetName())) })
	t.Run("operations", func(t *testing.T) { checkOperations(t, d) })
	d.stop(t)
	for _, path := range []string{"/orders", "/all"} {
		for id, times := range r.arrivals(path) {
			if times != 1 {
				t.Errorf("%s came to %s %d times", id, path, times)
			}
		}
	}
}

// compact removes the spaces between the parts of a JSON text.
func compact(t *testing.T, text string) string {
	t.Helper()
	var compacted bytes.Buffer
	if err := json.Compact(&compacted, []byte(text)); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return compacted.String()
}

// checkOrders compares what came to /orders with what was published.
func checkOrders(t *testing.T, r *receiver, ids map[string]string) {
	t.Helper()
	for _, w := range r.webhooks("/orders") {
		var body struct {
			Type      string          `json:"type"`
			Timestamp time.Time       `json:"timestamp"`
			Data      json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(w.body, &body); err != nil {
			t.Errorf("%s: %v in %s", w.id, err, w.body)
		}
		if body.Type != "order.created" || body.Timestamp.IsZero() || string(body.Data) != ids[w.id] {
			t.Errorf("%s: got %s", w.id, w.body)
		}
		if got := w.header.Get("Content-Type"); got != "application/json" {
			t.Errorf("%s: content type %q", w.id, got)
		}
		if got := w.header.Get("User-Agent"); !strings.HasPrefix(got, "Fanfare/") {
			t.Errorf("%s: user agent %q", w.id, got)
		}
	}
	for _, w := range r.webhooks("/all") {
		if want, ok := ids[w.id]; ok && (string(w.body) != want || w.header.Get("Ce-Type") != "order.created") {
			t.Errorf("%s: got %v %s", w.id, w.header, w.body)
		}
	}
}

// restDelivery is a delivery as REST shows it.
type restDelivery struct {
	Name           string `json:"name"`
	Event          string `json:"event"`
	State          string `json:"state"`
	AttemptCount   int    `json:"attemptCount"`
	LastStatusCode int    `json:"lastStatusCode"`
}

// restPage is a page of deliveries.
type restPage struct {
	Deliveries    []restDelivery `json:"deliveries"`
	NextPageToken string         `json:"nextPageToken"`
}

func checkREST(t *testing.T, d *dev, subscription string) {
	list := "/v1/tenants/default/deliveries?pageSize=2&state=DELIVERED&subscription=" + subscription
	var first, second restPage
	eventually(t, "the deliveries end", func() bool {
		return d.count(t, subscription, fanfarev1.Delivery_DELIVERED) == 3
	})
	d.get(t, list, &first)
	if len(first.Deliveries) != 2 || first.NextPageToken == "" {
		t.Fatalf("first page: %+v", first)
	}
	d.get(t, list+"&pageToken="+first.NextPageToken, &second)
	if len(second.Deliveries) != 1 || second.NextPageToken != "" {
		t.Fatalf("second page: %+v", second)
	}
	want := restDelivery{
		Name: first.Deliveries[0].Name, Event: first.Deliveries[0].Event, State: "DELIVERED", AttemptCount: 1, LastStatusCode: 200,
	}
	var one restDelivery
	d.get(t, "/v1/"+want.Name, &one)
	if one != want || one != first.Deliveries[0] {
		t.Errorf("got %+v, in the list %+v, want %+v", one, first.Deliveries[0], want)
	}
	var answer struct {
		Attempts []struct {
			Number     int    `json:"number"`
			Result     string `json:"result"`
			StatusCode int    `json:"statusCode"`
			Worker     string `json:"worker"`
		} `json:"attempts"`
	}
	d.get(t, "/v1/"+want.Name+"/attempts", &answer)
	if len(answer.Attempts) != 1 || answer.Attempts[0].Result != "DELIVERED" || answer.Attempts[0].StatusCode != 200 ||
		!strings.HasPrefix(answer.Attempts[0].Worker, "worker-") {
		t.Errorf("attempts: %+v", answer)
	}
	if status, body := d.call(t, http.MethodGet, "/v1/tenants/default/deliveries/dlv_none", nil, ""); status != http.StatusNotFound && status != http.StatusBadRequest {
		t.Errorf("a delivery that is not there: %d %s", status, body)
	}
}

func checkCLI(t *testing.T, d *dev, subscription string) {
	list := d.cli(t, "deliveries", "list", "--subscription", subscription, "--state", "delivered")
	rows := strings.Split(strings.TrimSpace(list), "\n")[1:]
	if len(rows) != 3 {
		t.Fatalf("deliveries list: %s", list)
	}
	id := regexp.MustCompile(`dlv_\S+`).FindString(rows[0])
	if got := d.cli(t, "deliveries", "get", id); !strings.Contains(got, "delivered") || !strings.Contains(got, "order.created") {
		t.Errorf("deliveries get: %s", got)
	}
	if got := d.cli(t, "deliveries", "attempts", id); !strings.Contains(got, "200") || !strings.Contains(got, "worker-") {
		t.Errorf("deliveries attempts: %s", got)
	}
	cluster := d.cli(t, "cluster")
	for _, want := range []string{"coordinator-1", "worker-1", "worker-2", "PROBLEMS\nnone"} {
		if !strings.Contains(cluster, want) {
			t.Errorf("cluster lacks %q:\n%s", want, cluster)
		}
	}
	eventually(t, "both workers are attached for half of the shards each", func() bool {
		var described struct {
			Shards []struct {
				Worker   string `json:"worker"`
				Attached bool   `json:"attached"`
			} `json:"shards"`
		}
		if err := json.Unmarshal([]byte(d.cli(t, "cluster", "-o", "json")), &described); err != nil {
			t.Fatal(err)
		}
		attached := make(map[string]int)
		for _, shard := range described.Shards {
			if shard.Attached {
				attached[shard.Worker]++
			}
		}
		return attached["worker-1"] == 32 && attached["worker-2"] == 32
	})
	checkTail(t, d)
}

// checkTail watches while an event is published and delivered.
func checkTail(t *testing.T, d *dev) {
	tail := startProcess(t, "tail", "--address", d.grpc)
	published := 0
	// Tail does not say when it has begun, so events go on being published
	// until it has shown one from its beginning to its end.
	eventually(t, "tail shows a delivery", func() bool {
		published++
		d.publish(t, "tail.seen", fmt.Sprintf("tail-%d", published))
		for line := range strings.Lines(tail.stdout.String()) {
			if match := regexp.MustCompile(`\+ new +tail\.seen +(tail-\d+)`).FindStringSubmatch(line); match != nil {
				delivered := regexp.MustCompile(`✓ delivered +tail\.seen +` + match[1] + ` +sub_\S+ +attempt 1 +200`)
				return delivered.MatchString(tail.stdout.String())
			}
		}
		return false
	})
	tail.signal(t, os.Interrupt)
	if code := tail.wait(t); code != exitOK {
		t.Errorf("tail ended with %d: %s", code, tail.stderr.String())
	}
}

func checkOperations(t *testing.T, d *dev) {
	for path, want := range map[string]string{
		"/healthz":      `"status":"ok"`,
		"/readyz":       `"status":"ok"`,
		"/metrics":      "fanfare_events_published_total",
		"/openapi.json": `"/v1/{parent}/subscriptions"`,
	} {
		if status, body := d.call(t, http.MethodGet, path, nil, ""); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("GET %s: status %d, without %s: %.300s", path, status, want, body)
		}
	}
}

// A secret is shown by Create and by the secret's own resource, and nowhere
// else: not in other answers, not in the log, not in the data.
func TestDevKeepsSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDev(t, dir, "--log-level", "debug")
	r := newReceiver(t, nil)
	created := d.subscribe(t, &fanfarev1.Subscription{Url: r.url + "/", Description: "keeps-a-secret"})
	secret := created.GetSecret()
	if !strings.HasPrefix(secret, "whsec_") {
		t.Fatalf("the answer to Create has the secret %q", secret)
	}
	if got := strings.TrimSpace(d.cli(t, "subscriptions", "get", lastPart(created.GetName()), "--secret")); got != secret {
		t.Errorf("the CLI shows the secret %q, want %q", got, secret)
	}
	d.publish(t, "order.created", "one")
	eventually(t, "the event has arrived", func() bool { return len(r.arrivals("/")) == 1 })
	r.verify(t, "/", secret)

	name := "/v1/" + created.GetName()
	if status, body := d.call(t, http.MethodGet, name+"/secret", nil, ""); status != http.StatusOK || !strings.Contains(body, secret) {
		t.Errorf("the secret's own resource: %d %s", status, body)
	}
	answers := map[string]string{"CLI list": d.cli(t, "subscriptions", "list", "-o", "json"), "metrics": ""}
	_, answers["metrics"] = d.call(t, http.MethodGet, "/metrics", nil, "")
	_, answers["get"] = d.call(t, http.MethodGet, name, nil, "")
	_, answers["list"] = d.call(t, http.MethodGet, "/v1/tenants/default/subscriptions", nil, "")
	_, answers["update"] = d.call(t, http.MethodPatch, name, nil, `{"description": "keeps-a-secret"}`)
	_, answers["deliveries"] = d.call(t, http.MethodGet, "/v1/tenants/default/deliveries", nil, "")
	for _, what := range []string{"get", "list", "update"} {
		if !strings.Contains(answers[what], "keeps-a-secret") {
			t.Errorf("%s: %s", what, answers[what])
		}
	}
	d.stop(t)
	answers["stdout"], answers["log"] = d.stdout.String(), d.stderr.String()
	for what, text := range answers {
		if strings.Contains(text, strings.TrimPrefix(secret, "whsec_")) {
			t.Errorf("the secret is in: %s", what)
		}
	}
	searchFiles(t, dir, secret)
}

// searchFiles wants the data to hold the event and not the secret, neither as
// text nor as the bytes that it stands for.
func searchFiles(t *testing.T, dir, secret string) {
	t.Helper()
	text := []byte(strings.TrimPrefix(secret, "whsec_"))
	raw, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil {
		t.Fatal(err)
	}
	foundEvent := false
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		foundEvent = foundEvent || bytes.Contains(content, []byte("keeps-a-secret"))
		if bytes.Contains(content, text) || bytes.Contains(content, raw) {
			t.Errorf("the secret is in %s", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !foundEvent {
		t.Error("the subscription is in no file: this test is blind")
	}
}

// What is wrong is said while nothing has begun.
func TestDevConfigIsChecked(t *testing.T) {
	valid := devConfig{
		dataDir: "data", grpcAddress: "127.0.0.1:0", httpAddress: "[::1]:7480", workers: 2, partitions: 4, logConfig: logConfig{format: "text"},
	}
	if err := valid.validate(); err != nil {
		t.Fatal(err)
	}
	for flag, change := range map[string]func(*devConfig){
		"--data-dir":     func(c *devConfig) { c.dataDir = "" },
		"--grpc-address": func(c *devConfig) { c.grpcAddress = "" },
		"--http-address": func(c *devConfig) { c.httpAddress = "localhost" },
		"--workers":      func(c *devConfig) { c.workers = 65 },
		"--partitions":   func(c *devConfig) { c.partitions = 0 },
		"--log-format":   func(c *devConfig) { c.format = "xml" },
	} {
		config := valid
		change(&config)
		if err := config.validate(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: got error %v", flag, err)
		}
	}
}
