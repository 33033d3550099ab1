package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// transcript is a buffer that can be read while a command writes to it.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// inBubble runs a test with a client of a fake cluster, both in one bubble of
// virtual time.
func inBubble(t *testing.T, test func(t *testing.T, c *client, cluster *fake)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		const room = 64 << 10
		listener := bufconn.Listen(room)
		cluster := newFake()
		server := grpc.NewServer(grpc.UnaryInterceptor(cluster.intercept))
		cluster.register(server)
		served := make(chan error, 1)
		go func() { served <- server.Serve(listener) }()
		conn, err := grpc.NewClient("passthrough:///fake",
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return listener.DialContext(ctx)
			}))
		if err != nil {
			t.Fatal(err)
		}
		test(t, &client{
			printer: printer{out: &transcript{}, format: formatTable},
			conn:    conn,
			tenant:  "tenants/default",
			stderr:  &transcript{},
		}, cluster)
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// TestPublishBatchGivesUp wants a batch tried a certain number of times, with
// waits that grow, and then the last error.
func TestPublishBatchGivesUp(t *testing.T) {
	inBubble(t, func(t *testing.T, c *client, cluster *fake) {
		for range publishTries + 1 {
			cluster.plan("Publish", fault{code: codes.Unavailable})
		}
		start := time.Now()
		_, err := publishBatch(t.Context(), c, batch{events: []*fanfarev1.Event{{Id: "1", Type: "a"}}})
		if codeOf(err) != codes.Unavailable {
			t.Errorf("publishBatch: %v, want unavailable", err)
		}
		if left := len(cluster.faults["Publish"]); left != 1 {
			t.Errorf("%d tries, want %d", publishTries+1-left, publishTries)
		}
		// 0.25 + 0.5 + 1 + 2 + 4 + 5 + 5 s, each by 20 % more or less.
		if took, want := time.Since(start), 17750*time.Millisecond; took < want*4/5 || took > want*6/5 {
			t.Errorf("gave up after %s, want about %s", took, want)
		}
	})
}

// TestPublishBatchInterrupted wants the wait between tries to end with the
// context.
func TestPublishBatchInterrupted(t *testing.T) {
	inBubble(t, func(t *testing.T, c *client, cluster *fake) {
		cluster.plan("Publish", fault{code: codes.Unavailable})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := publishBatch(ctx, c, batch{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("publishBatch: %v, want %v", err, context.DeadlineExceeded)
		}
	})
}

// TestWatchCluster wants a description every period, a server that is away
// for a moment to be no end, and the end of the context to be no error.
func TestWatchCluster(t *testing.T) {
	inBubble(t, func(t *testing.T, c *client, cluster *fake) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- watchCluster(ctx, c) }()
		seen := func() int {
			synctest.Wait()
			return strings.Count(c.out.(*transcript).String(), "MEMBERS")
		}
		if n := seen(); n != 1 {
			t.Errorf("%d descriptions at once, want 1", n)
		}
		cluster.plan("DescribeCluster", fault{code: codes.Unavailable})
		for period, want := range []int{1, 2, 3} {
			<-time.After(clusterPeriod)
			if n := seen(); n != want {
				t.Errorf("%d descriptions after %d periods, want %d", n, period+1, want)
			}
		}
		if got, want := c.stderr.(*transcript).String(), "fanfare: unavailable: planned by the test\n"; got != want {
			t.Errorf("notes %q, want %q", got, want)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watchCluster: %v", err)
		}
	})
}

// TestTailBacksOff wants tail to wait before it connects again, and to give up
// at once where it is refused.
func TestTailBacksOff(t *testing.T) {
	inBubble(t, func(t *testing.T, c *client, cluster *fake) {
		done := make(chan error, 1)
		go func() {
			done <- tail(t.Context(), c, &fanfarev1.WatchDeliveriesRequest{Parent: c.tenant})
		}()
		<-cluster.opened
		for _, end := range []error{nil, status.Error(codes.ResourceExhausted, "too slow")} {
			start := time.Now()
			cluster.endWatches(end)
			<-cluster.opened
			if waited := time.Since(start); waited < firstRetryWait*4/5 || waited > firstRetryWait*6/5 {
				t.Errorf("after %v connected again in %s, want about %s", end, waited, firstRetryWait)
			}
		}
		cluster.endWatches(status.Error(codes.NotFound, "there is no such tenant"))
		if err := <-done; codeOf(err) != codes.NotFound {
			t.Errorf("tail: %v, want not found", err)
		}
		notes := c.stderr.(*transcript).String()
		if !strings.Contains(notes, "fanfare: the server ended the stream; connecting again in") {
			t.Errorf("notes: %s", notes)
		}
	})
}

// TestProgressBar wants one line that is drawn over, and left before others
// write.
func TestProgressBar(t *testing.T) {
	var drawn strings.Builder
	p := &progress{out: &drawn, terminal: true}
	replay := &fanfarev1.Replay{State: fanfarev1.Replay_RUNNING, MatchedCount: 4}
	p.leave() // nothing is drawn yet
	p.show(replay)
	replay.ReplayedCount, replay.SkippedCount = 2, 1
	p.show(replay)
	p.show(replay)
	p.leave()
	replay.ReplayedCount = 9 // more died meanwhile
	p.show(replay)
	p.leave()
	p.leave()
	want := "\r" + strings.Repeat("░", 30) + "   0 %  0 of 4 replayed\x1b[K" +
		"\r" + strings.Repeat("█", 22) + strings.Repeat("░", 8) + "  75 %  2 of 4 replayed, 1 left out\x1b[K\n" +
		"\r" + strings.Repeat("█", 30) + " 100 %  9 of 4 replayed, 1 left out\x1b[K\n"
	if got := drawn.String(); got != want {
		t.Errorf("drawn\n%q, want\n%q", got, want)
	}
	if got := bar(&fanfarev1.Replay{State: fanfarev1.Replay_DONE, MatchedCount: 4}); !strings.HasSuffix(got, "█ 100 %") {
		t.Errorf("of a replay that is done the bar is %q", got)
	}
}

// TestFollowBacksOff wants a server that is away to be asked after growing
// waits, and one that answers at a steady pace.
func TestFollowBacksOff(t *testing.T) {
	inBubble(t, func(t *testing.T, c *client, cluster *fake) {
		replay, err := c.deliveries().CreateReplay(t.Context(), &fanfarev1.CreateReplayRequest{
			Parent: c.tenant, Replay: &fanfarev1.Replay{},
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			cluster.plan("GetReplay", fault{code: codes.Unavailable})
		}
		start := time.Now()
		if err := follow(t.Context(), c, replay); err != nil {
			t.Error(err)
		}
		// 0.5 s, then 0.25 + 0.5 + 1 s, each by 20 % more or less.
		waits := 1750 * time.Millisecond
		if took := time.Since(start); took < replayPeriod+waits*4/5 || took > replayPeriod+waits*6/5 {
			t.Errorf("done after %s, want about %s", took, replayPeriod+waits)
		}
		if got := strings.Count(c.stderr.(*transcript).String(), "looking again in"); got != 3 {
			t.Errorf("said %d times that the server is away, want 3", got)
		}
	})
}

func TestRetryWaits(t *testing.T) {
	var waits retryWaits
	for _, milliseconds := range []int{250, 500, 1000, 2000, 4000, 5000, 5000} {
		want := time.Duration(milliseconds) * time.Millisecond
		if got := waits.next(); got < want*4/5 || got > want*6/5 {
			t.Errorf("next() = %s, want about %s", got, want)
		}
	}
}

func TestDescribe(t *testing.T) {
	refuse := func(message, field, description string) error {
		st, err := status.New(codes.InvalidArgument, message).WithDetails(&errdetails.BadRequest{
			FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: description}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return st.Err()
	}
	tests := []struct {
		err  error
		want string
	}{
		{errors.New("plain\nand simple"), "plain and simple"},
		{status.Error(codes.NotFound, "there is no sub_1"), "not found: there is no sub_1"},
		{
			fmt.Errorf("deleting sub_1: %w", status.Error(codes.FailedPrecondition, "not now")),
			"deleting sub_1: failed precondition: not now",
		},
		{refuse("url: is wrong", "url", "is wrong"), "invalid argument: url: is wrong"},
		{refuse("is wrong", "url", "is wrong"), "invalid argument: url: is wrong"},
		{refuse("is wrong", "url", ""), "invalid argument: url: is wrong"},
		{refuse("bad request", "url", "is wrong"), "invalid argument: bad request (url: is wrong)"},
		{
			status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp [::1]:1: refused"`),
			"unavailable: dial tcp [::1]:1: refused (is a server there? --address or FANFARE_ADDRESS says where to look)",
		},
		{status.Error(codes.Unavailable, "the disk is \x1b[31mfull"), "unavailable: the disk is  [31mfull"},
	}
	for _, test := range tests {
		if got := describe(test.err); got != test.want {
			t.Errorf("describe(%v)\n got %s\nwant %s", test.err, got, test.want)
		}
	}
}

func TestReportInterrupted(t *testing.T) {
	for _, err := range []error{
		fmt.Errorf("publishing: %w", context.Canceled),
		status.Error(codes.Canceled, "context canceled"),
	} {
		var stderr bytes.Buffer
		if code := report(&stderr, "fanfare publish", err); code != exitInterrupted {
			t.Errorf("report(%v) = %d, want %d", err, code, exitInterrupted)
		}
		if got, want := stderr.String(), "fanfare: interrupted\n"; got != want {
			t.Errorf("report(%v) wrote %q, want %q", err, got, want)
		}
	}
}

func TestTarget(t *testing.T) {
	tests := []struct{ address, want string }{
		{"127.0.0.1:7400", "127.0.0.1:7400"},
		{"fanfare.example.com", "fanfare.example.com:7400"},
		{"::1", "[::1]:7400"},
		{"[::1]", "[::1]:7400"},
		{"[::1]:1", "[::1]:1"},
		{"unix:/run/fanfare.sock", "unix:/run/fanfare.sock"},
		{"dns:///fanfare", "dns:///fanfare"},
	}
	for _, test := range tests {
		if got := target(test.address); got != test.want {
			t.Errorf("target(%q) = %q, want %q", test.address, got, test.want)
		}
	}
}

func TestTimeFlag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // where it is midnight, 2000-01-01 UTC
		tests := []struct{ flag, want string }{
			{"1h", "1999-12-31T23:00:00Z"},
			{"7d", "1999-12-25T00:00:00Z"},
			{"2026-01-02T15:04:05+01:00", "2026-01-02T14:04:05Z"},
		}
		for _, test := range tests {
			var got timeFlag
			if err := got.Set(test.flag); err != nil || got.String() != test.want {
				t.Errorf("Set(%q): %s (%v), want %s", test.flag, got.String(), err, test.want)
			}
		}
		for _, wrong := range []string{"", "soon", "-1h", "d", "2026-01-02"} {
			if err := new(timeFlag).Set(wrong); err == nil {
				t.Errorf("Set(%q) is no error", wrong)
			}
		}
	})
}

func TestReadable(t *testing.T) {
	spanOf := func(d time.Duration) string { return span(durationpb.New(d)) }
	tests := []struct{ got, want string }{
		{spanOf(12345678 * time.Microsecond), "12.35s"},
		{spanOf(12345 * time.Microsecond), "12ms"},
		{spanOf(1234567 * time.Nanosecond), "1.23ms"},
		{spanOf(5 * time.Minute), "5m"},
		{spanOf(10 * time.Hour), "10h"},
		{spanOf(90 * time.Second), "1m30s"},
		{spanOf(0), "0s"},
		{span(nil), ""},
		{size(1023), "1023 B"},
		{size(1536), "1.5 KiB"},
		{size(5 << 30), "5.0 GiB"},
		{size(1<<64 - 1), "16.0 EiB"},
		{shorten("wörter", 4), "wör…"},
		{shorten("wort", 4), "wort"},
		{moment(nil), ""},
	}
	for _, test := range tests {
		if test.got != test.want {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
}

// TestChangeLine covers the ends that the scripts do not reach.
func TestChangeLine(t *testing.T) {
	for state, want := range map[fanfarev1.Delivery_State]string{
		fanfarev1.Delivery_DEAD:      "✗ dead       order.paid",
		fanfarev1.Delivery_EXPIRED:   "- expired    order.paid",
		fanfarev1.Delivery_CANCELLED: "- cancelled  order.paid",
	} {
		line := changeLine(&fanfarev1.WatchDeliveriesResponse{Delivery: &fanfarev1.Delivery{
			Name: "tenants/t/deliveries/dlv_1", State: state, EventType: "order.paid", EndTime: timestamppb.New(time.Unix(0, 0)),
		}})
		if !strings.Contains(line, want) {
			t.Errorf("changeLine(%s) = %q, want %q in it", state, line, want)
		}
	}
}
