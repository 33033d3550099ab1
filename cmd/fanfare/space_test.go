package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	embeddednats "github.com/fanfare-dev/fanfare/internal/eventlog/embedded"
	"github.com/fanfare-dev/fanfare/internal/tmpfs"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// smallDisk has room for what embedded etcd takes at once, and some more.
	smallDisk = 320 << 20
	// smallReserve is three times what SQLite writes at once when it empties
	// its journal: nothing else is on this disk that does not ask first.
	smallReserve = "48MiB"
)

// A disk that fills under load has publishes refused and nothing else, loses
// nothing that was acknowledged, and has publishes taken again once there is
// space: all in one life of the process.
func TestFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("fills a disk")
	}
	tmpfs.Run(t, smallDisk, func(t *testing.T, dir string) {
		data := filepath.Join(dir, "data")
		d := startDev(t, data, "--partitions", "2", "--min-free-space", smallReserve)
		r := newReceiver(t, nil)
		d.subscribe(t, &fanfarev1.Subscription{Url: r.url + "/"})
		ballast := fillDisk(t, dir, 96<<20)
		acknowledged := d.publishUntilRefused(t)
		for range 10 {
			if err := d.publishLarge(t.Context(), "refused"); status.Code(err) != codes.ResourceExhausted {
				t.Errorf("publishing on a full disk: %v, want RESOURCE_EXHAUSTED", err)
			}
		}
		eventually(t, "all that is owed is delivered, on a full disk", func() bool { return d.owed(t) == 0 })
		if problems := strings.Join(d.describe(t).GetProblems(), "\n"); !strings.Contains(problems, "kept in reserve") {
			t.Errorf("the cluster's problems are %q, want the full disk among them", problems)
		}

		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the disk is no problem any more", func() bool { return len(d.describe(t).GetProblems()) == 0 })
		for i := range 100 {
			id := fmt.Sprintf("after-%d", i)
			if err := d.publishLarge(t.Context(), id); err != nil {
				t.Fatalf("publishing with space again: %v", err)
			}
			acknowledged = append(acknowledged, id)
		}
		if duplicates := awaitAll(t, r, "/", acknowledged); duplicates > 0 {
			t.Errorf("%d events were delivered more than once", duplicates)
		}
		eventually(t, "all that is owed is delivered", func() bool { return d.owed(t) == 0 })
		if r.arrivals("/")["refused"] > 0 {
			t.Error("an event that was refused was delivered")
		}
		d.checkEvents(t, acknowledged)
		d.stop(t)
		again := startDev(t, data, "--partitions", "2", "--min-free-space", smallReserve)
		again.checkEvents(t, acknowledged)
		again.stop(t)
	})
}

// A log on a disk that nobody watches meets its end, and falls silent for good.
// Then the process ends and says why; the next one has everything.
func TestSilentLog(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a log may be silent")
	}
	tmpfs.Run(t, 64<<20, func(t *testing.T, dir string) {
		data := t.TempDir()
		startDev(t, data, "--partitions", "2").stop(t)
		moveLog(t, filepath.Join(data, "nats"), filepath.Join(dir, "nats"))
		d := startDev(t, data, "--partitions", "2")
		ballast := fillDisk(t, dir, 16<<20)
		acknowledged := d.publishUntilRefused(t)
		if code := d.wait(t); code != exitFailed {
			t.Errorf("it ended with %d, want %d", code, exitFailed)
		}
		if said := d.stderr.String(); !strings.Contains(said, "fanfare: leading partition") ||
			!strings.Contains(said, "has not answered a write") || strings.Contains(said, "panic") {
			t.Errorf("it does not say clearly why it ended:\n%s", lastLines(said))
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		again := startDev(t, data, "--partitions", "2")
		again.checkEvents(t, acknowledged)
		if err := again.publishLarge(t.Context(), "after"); err != nil {
			t.Errorf("publishing with space again: %v", err)
		}
		again.stop(t)
	})
}

// moveLog moves a folder to another file system, and leaves a link to it.
func moveLog(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(from); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(to, from); err != nil {
		t.Fatal(err)
	}
}

// fillDisk writes a file that leaves so many bytes free, and returns its name.
func fillDisk(t *testing.T, dir string, leave uint64) (ballast string) {
	t.Helper()
	free, _, err := embeddednats.Free(dir)
	if err != nil {
		t.Fatal(err)
	}
	if free <= leave {
		t.Fatalf("only %d bytes are free, %d are to be left", free, leave)
	}
	ballast = filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, free-leave), 0o600); err != nil {
		t.Fatal(err)
	}
	return ballast
}

// publishLarge publishes one event of 8 KiB for each id, in one request.
func (d *dev) publishLarge(ctx context.Context, ids ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request := &fanfarev1.PublishRequest{Parent: demoTenant}
	for _, id := range ids {
		request.Events = append(request.Events, &fanfarev1.Event{
			Id: id, Type: "disk.filled", Data: []byte(`"` + strings.Repeat("x", 8<<10) + `"`),
		})
	}
	_, err := d.events().Publish(ctx, request)
	return err
}

// publishUntilRefused has several producers publish until each of them is
// refused, or the process ends, and returns what was acknowledged.
func (d *dev) publishUntilRefused(t *testing.T) []string {
	t.Helper()
	const most = 2000 // requests of a producer: more than fit
	var mu sync.Mutex
	var all sync.WaitGroup
	var acknowledged []string
	for producer := range producers {
		all.Go(func() {
			for round := range most {
				var ids []string
				for i := range producerBatch {
					ids = append(ids, fmt.Sprintf("p%d-%d-%d", producer, round, i))
				}
				if err := d.publishLarge(t.Context(), ids...); err != nil {
					checkRefusal(t, err)
					return
				}
				mu.Lock()
				acknowledged = append(acknowledged, ids...)
				mu.Unlock()
			}
			t.Error("the disk does not fill")
		})
	}
	all.Wait()
	t.Logf("%d events were acknowledged until the disk was full", len(acknowledged))
	if len(acknowledged) < producers*producerBatch {
		t.Error("those are too few to have filled it")
	}
	return acknowledged
}

// checkRefusal wants an error that says what is full and when to try again, or
// that of a process that has ended.
func checkRefusal(t *testing.T, err error) {
	t.Helper()
	s := status.Convert(err)
	if s.Code() == codes.Unavailable {
		return
	}
	if s.Code() != codes.ResourceExhausted || !strings.Contains(s.Message(), "nothing was stored") {
		t.Errorf("publishing on a full disk: %v", err)
	}
	if !slices.ContainsFunc(s.Details(), func(detail any) bool { _, ok := detail.(*errdetails.RetryInfo); return ok }) {
		t.Errorf("the refusal does not say when to try again: %v", s.Details())
	}
}

func (d *dev) describe(t *testing.T) *fanfarev1.Cluster {
	t.Helper()
	described, err := fanfarev1.NewClusterServiceClient(d.conn).DescribeCluster(t.Context(), &fanfarev1.DescribeClusterRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return described
}

// owed returns how many deliveries and subscriptions have something to come.
func (d *dev) owed(t *testing.T) (n int64) {
	t.Helper()
	for _, p := range d.describe(t).GetPartitions() {
		n += p.GetOutstanding() + p.GetBehind() + p.GetInFlight()
	}
	return n
}

// checkEvents wants these events in the history, and none that was refused.
func (d *dev) checkEvents(t *testing.T, want []string) {
	t.Helper()
	got := make(map[string]bool)
	request := &fanfarev1.ListEventsRequest{Parent: demoTenant, PageSize: 1000}
	for {
		page, err := d.events().ListEvents(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.GetEvents() {
			got[e.GetId()] = true
		}
		if request.PageToken = page.GetNextPageToken(); request.GetPageToken() == "" {
			break
		}
	}
	lost := slices.DeleteFunc(slices.Clone(want), func(id string) bool { return got[id] })
	if len(lost) > 0 {
		t.Errorf("%d of %d events that were acknowledged are lost: %.200q", len(lost), len(want), lost)
	}
	if got["refused"] {
		t.Error("an event that was refused was stored")
	}
}

func TestBytesFlag(t *testing.T) {
	for text, want := range map[string]uint64{
		"0": 0, "1048576": 1 << 20, "7B": 7, "512MiB": 512 << 20, "2 GiB": 2 << 30, "1TiB": 1 << 40,
		"100MB": 100_000_000, "3KB": 3000, "3kB": 3000,
	} {
		var f bytesFlag
		if err := f.Set(text); err != nil || f.value != want {
			t.Errorf("%q is %d (%v), want %d", text, f.value, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5GiB", "1 PiB", "5iB", "5KMB", "9999999999TiB", "1GiBx"} {
		var f bytesFlag
		if err := f.Set(text); err == nil {
			t.Errorf("%q is taken for %d", text, f.value)
		}
	}
}
