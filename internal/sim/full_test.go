package sim_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/internal/sim"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const mebibyte = 1 << 20

// disk is a file system whose free space a test decides on.
type disk struct{ left atomic.Uint64 }

func newDisk(free uint64) *disk {
	d := new(disk)
	d.left.Store(free)
	return d
}

func (d *disk) free() (free, total uint64, err error) { return d.left.Load(), 1 << 30, nil }

// sized is an event of about some bytes.
func sized(id string, bytes int) *fanfarev1.Event {
	event := sim.Event(id, "order.created")
	event.Data = []byte(`"` + strings.Repeat("x", bytes) + `"`)
	return event
}

// checkRefused checks that an error says what is full, that nothing was stored
// and when to try again.
func checkRefused(t *testing.T, err error, what ...string) {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != codes.ResourceExhausted {
		t.Fatalf("without space: %v, want RESOURCE_EXHAUSTED", err)
	}
	for _, part := range append(what, "nothing was stored") {
		if !strings.Contains(s.Message(), part) {
			t.Errorf("the message is %q, want %q in it", s.Message(), part)
		}
	}
	for _, detail := range s.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok && retry.GetRetryDelay().AsDuration() > 0 {
			return
		}
	}
	t.Errorf("the details are %v, want a RetryInfo", s.Details())
}

// problem reports whether the cluster says that it has a problem of this kind.
func problem(t *testing.T, c *sim.Cluster, part string) bool {
	t.Helper()
	described, err := c.Client.Describe()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(strings.Join(described.GetProblems(), "\n"), part)
}

// publishUntilRefused publishes events e<from>, e<from+1>, … of some bytes and
// returns how many there are then, and what the next one was told.
func publishUntilRefused(t *testing.T, c *sim.Cluster, from, bytes int) (n int, refusal error) {
	t.Helper()
	for n = from; n < from+10_000; n++ {
		if _, err := c.Client.TryPublish(sized(fmt.Sprintf("e%d", n), bytes)); err != nil {
			return n, err
		}
	}
	t.Fatalf("%d events of %d bytes were taken", n, bytes)
	return n, nil
}

func describedPartition(t *testing.T, c *sim.Cluster) *fanfarev1.Partition {
	t.Helper()
	described, err := c.Client.Describe()
	if err != nil {
		t.Fatal(err)
	}
	return described.GetPartitions()[0]
}

// A log at its limit, of which nothing is owed, makes room by itself: although
// nothing is written any more that would bring a snapshot about. It comes to its
// limit because the history is away. Otherwise the publisher and the follower,
// which purges, would run a race that takes no virtual time and that anybody
// may win.
func TestLogLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, each = mebibyte, 8 << 10
		c := sim.New(t, sim.Config{MaxLogBytes: limit})
		published := 0
		for range 3 {
			c.Coordinators[0].LoseHistory()
			n, refusal := publishUntilRefused(t, c, published, each)
			checkRefused(t, refusal, "partition 0", "1.0 MiB")
			if n-published < limit/each/8 {
				t.Errorf("%d events were taken, want a good part of the limit", n-published)
			}
			published = n
			if bytes := describedPartition(t, c).GetLogBytes(); bytes > limit+2*each {
				t.Errorf("the log has %d bytes, its limit is %d", bytes, limit)
			}
			c.Coordinators[0].FindHistory()
			c.Await("events are taken again", 2*time.Minute, func() bool {
				_, err := c.Client.TryPublish(sim.Event(fmt.Sprintf("e%d", published), "order.created"))
				return err == nil
			})
			published++
			if problem(t, c, "the log of partition 0") {
				t.Error("the cluster says still that the log is at its limit")
			}
		}
		checkEvents(t, c, published)
		c.Coordinators[0].Restart()
		c.AwaitOwners()
		checkEvents(t, c, published)
	})
}

// What is owed is not purged, and so nothing is taken for as long as it takes;
// outcomes are.
func TestLogLimitWhileOwed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{MaxLogBytes: mebibyte})
		e := c.Endpoint("one")
		e.Behave(sim.Status(503))
		var waits []time.Duration
		for range 40 {
			waits = append(waits, 30*time.Second)
		}
		a := c.Client.Subscribe(e, nil, waits...)
		n, refusal := publishUntilRefused(t, c, 0, 16<<10)
		checkRefused(t, refusal, "partition 0")
		if !problem(t, c, "the log of partition 0") {
			t.Error("the cluster does not say that the log is at its limit")
		}
		before := describedPartition(t, c).GetLastSequence()
		sim.Pass(5 * time.Minute)
		if _, err := c.Client.TryPublish(sim.Event("more", "order.created")); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("publishing while all is owed: %v, want RESOURCE_EXHAUSTED", err)
		}
		if after := describedPartition(t, c).GetLastSequence(); after == before {
			t.Error("no outcome was written while events were refused")
		}
		e.Behave(sim.OK())
		c.AwaitSettled(time.Hour)
		c.Await("events are taken again", 2*time.Minute, func() bool {
			_, err := c.Client.TryPublish(sim.Event(fmt.Sprintf("e%d", n), "order.created"))
			return err == nil
		})
		c.AwaitSettled(time.Minute)
		checkEvents(t, c, n+1)
		checkDelivered(t, c, e, a, n+1)
		checkOnce(t, e)
	})
}

// Below the reserve events and what is new are refused, and all else goes on.
func TestDiskReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const reserve = 64 * mebibyte
		d := newDisk(8 * reserve)
		c := sim.New(t, sim.Config{Free: d.free, Reserve: reserve})
		e := c.Endpoint("one")
		e.Behave(sim.Slow(2 * time.Second))
		a, b := c.Client.Subscribe(e, nil), c.Client.Subscribe(c.Endpoint("two"), nil)
		c.Client.PublishMany(20, "e", "order.created")
		d.left.Store(reserve - 1)
		sim.Pass(time.Second)
		_, err := c.Client.TryPublish(sim.Event("refused", "order.created"))
		checkRefused(t, err, "64.0 MiB", "1024.0 MiB", "reserve")
		subscription, tenant := c.Client.TryCreate(e, "acme")
		checkRefused(t, subscription)
		checkRefused(t, tenant)
		if !problem(t, c, "reserve") {
			t.Error("the cluster does not say that the disk is full")
		}
		c.Client.Update(a, "order.*")
		c.Client.Delete(b)
		c.AwaitSettled(time.Minute) // so outcomes are written
		checkDelivered(t, c, e, a, 20)

		d.left.Store(reserve + reserve/8 - 1)
		sim.Pass(time.Minute)
		if _, err := c.Client.TryPublish(sim.Event("refused", "order.created")); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("publishing just above the reserve: %v, want RESOURCE_EXHAUSTED", err)
		}
		d.left.Store(2 * reserve)
		sim.Pass(time.Second)
		if _, err := c.Client.TryPublish(sim.Event("e20", "order.created")); err != nil {
			t.Errorf("publishing with space again: %v", err)
		}
		if problem(t, c, "reserve") {
			t.Error("the cluster says still that the disk is full")
		}
		c.AwaitSettled(time.Minute)
		checkEvents(t, c, 21)
		checkDelivered(t, c, e, a, 21)
		checkOnce(t, e)
	})
}

// On the last quarter of the reserve nothing is written, and nothing is lost.
func TestDiskExhausted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const reserve = 64 * mebibyte
		d := newDisk(8 * reserve)
		c := sim.New(t, sim.Config{Free: d.free, Reserve: reserve, Workers: 2})
		e, failing := c.Endpoint("one"), c.Endpoint("two")
		e.Behave(sim.Slow(2 * time.Second))
		failing.Behave(sim.FailFirst(1, 503))
		a := c.Client.Subscribe(e, nil)
		b := c.Client.Subscribe(failing, nil, time.Minute)
		c.Client.PublishMany(50, "e", "order.created")
		d.left.Store(reserve/4 - 1)
		sim.Pass(time.Second)
		before := describedPartition(t, c)
		for range 3 {
			_, err := c.Client.TryPublish(sim.Event("refused", "order.created"))
			checkRefused(t, err)
			sim.Pass(time.Minute)
		}
		after := describedPartition(t, c)
		if after.GetLastSequence() != before.GetLastSequence() || after.GetOutstanding() == 0 {
			t.Errorf("before %v, after %v: want nothing written, and all that was owed still owed", before, after)
		}
		d.left.Store(2 * reserve)
		c.AwaitSettled(time.Hour)
		checkEvents(t, c, 50)
		checkDelivered(t, c, e, a, 50)
		checkDelivered(t, c, failing, b, 50)
		checkOnce(t, e)
		checkOnce(t, failing)
	})
}

// What is published between two looks at the disk is counted: in this test no
// time passes, and so nobody looks.
func TestDiskBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const reserve, room, each = 64 * mebibyte, 4 * mebibyte, 64 << 10
		d := newDisk(reserve + room)
		c := sim.New(t, sim.Config{Free: d.free, Reserve: reserve, Partitions: 4})
		start := time.Now()
		n, refusal := publishUntilRefused(t, c, 0, each)
		if elapsed := time.Since(start); elapsed > 0 {
			t.Fatalf("%v have passed", elapsed)
		}
		checkRefused(t, refusal)
		if taken := n * each; taken > room || taken < room*3/4 {
			t.Errorf("%d bytes were taken of the %d there were", taken, room)
		}
	})
}

// A request that takes several records is stored whole or not at all.
func TestRefusedWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls, events, each = 12, 20, 100 << 10
		c := sim.New(t, sim.Config{MaxLogBytes: 4 * mebibyte})
		e := c.Endpoint("hangs")
		e.Behave(sim.Hang())
		c.Client.Subscribe(e, nil) // to which all is owed, so that nothing is purged
		c.Coordinators[0].Log().DelayAppends(20 * time.Millisecond)
		errs := make([]error, calls)
		var publishers sync.WaitGroup
		for call := range calls {
			publishers.Go(func() {
				var batch []*fanfarev1.Event
				for i := range events {
					batch = append(batch, sized(fmt.Sprintf("c%d-%d", call, i), each))
				}
				_, errs[call] = c.Client.TryPublish(batch...)
			})
		}
		publishers.Wait()
		stored := make(map[string]int)
		for _, e := range c.Client.Events() {
			call, _, _ := strings.Cut(e.GetId(), "-")
			stored[call]++
		}
		taken := 0
		for call, err := range errs {
			want := 0
			if err == nil {
				want = events
				taken++
			} else {
				checkRefused(t, err)
			}
			if got := stored[fmt.Sprintf("c%d", call)]; got != want {
				t.Errorf("%d events of request %d are stored, which ended with %v", got, call, err)
			}
		}
		if taken == 0 || taken == calls {
			t.Errorf("%d of %d requests were taken, want some", taken, calls)
		}
	})
}

// While space is short the log keeps nothing that is not owed, not even to be
// replayed, although nothing is written any more that would bring a snapshot
// about. That costs a few records, once.
func TestShortOfSpaceNothingIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const reserve, events, each = 64 * mebibyte, 100, 16 << 10
		d := newDisk(8 * reserve)
		c := sim.New(t, sim.Config{Free: d.free, Reserve: reserve})
		for i := range events {
			c.Client.Publish(sized(fmt.Sprintf("e%d", i), each))
		}
		sim.Pass(10 * time.Minute)
		if bytes := describedPartition(t, c).GetLogBytes(); bytes < events*each {
			t.Errorf("with space the log has %d bytes, want what can be replayed", bytes)
		}
		d.left.Store(2*reserve - 1)
		sim.Pass(time.Minute)
		purged := describedPartition(t, c)
		if bytes := purged.GetLogBytes(); bytes > each {
			t.Errorf("short of space the log has %d bytes, want next to nothing", bytes)
		}
		sim.Pass(time.Hour)
		if now := describedPartition(t, c); now.GetLastSequence() > purged.GetLastSequence()+2 {
			t.Errorf("an hour later it has gone from record %d to %d", purged.GetLastSequence(), now.GetLastSequence())
		}
		checkEvents(t, c, events)
		c.Coordinators[0].Restart()
		c.AwaitOwners()
		checkEvents(t, c, events)
	})
}

// A request that the store itself refused is not stored later; one that it
// stored a part of is not said to be refused.
func TestNoSpaceInTheMiddle(t *testing.T) {
	for _, test := range []struct {
		name   string
		after  time.Duration // until there is no space
		want   codes.Code
		stored bool
	}{
		{"before the first record", 0, codes.ResourceExhausted, false},
		{"after the first record", 30 * time.Millisecond, codes.Unavailable, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := sim.New(t, sim.Config{})
				log := c.Coordinators[0].Log()
				log.DelayAppends(20 * time.Millisecond)
				var batch []*fanfarev1.Event
				for i := range 20 {
					batch = append(batch, sized(fmt.Sprintf("e%d", i), 100<<10))
				}
				asked := make(chan error, 1)
				go func() {
					_, err := c.Client.TryPublish(batch...)
					asked <- err
				}()
				sim.Pass(test.after)
				log.RefuseForSpace(true)
				if err := <-asked; status.Code(err) != test.want {
					t.Errorf("publishing: %v, want %v", err, test.want)
				}
				log.RefuseForSpace(false)
				sim.Pass(time.Minute)
				if n := len(c.Client.Events()); (n > 0) != test.stored || n == len(batch) {
					t.Errorf("%d events are stored, of %d", n, len(batch))
				}
				c.Client.Publish(batch...)
				checkEvents(t, c, len(batch))
			})
		})
	}
}

// A log that answers no more ends the coordinator, if it was told so, and the
// next one finds all that was acknowledged.
func TestSilentLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.New(t, sim.Config{Silence: lead.DefaultSilence})
		e := c.Endpoint("one")
		a := c.Client.Subscribe(e, nil)
		c.Client.PublishMany(20, "e", "order.created")
		start := time.Now()
		c.Coordinators[0].Log().DelayAppends(time.Hour)
		asked := make(chan error, 1)
		go func() {
			_, err := c.Client.TryPublish(sim.Event("e20", "order.created"))
			asked <- err
		}()
		err := c.Coordinators[0].Ended()
		if !errors.Is(err, lead.ErrSilent) {
			t.Errorf("the coordinator ended with %v, want ErrSilent", err)
		}
		if waited := time.Since(start); waited < lead.DefaultSilence || waited > lead.DefaultSilence+20*time.Second {
			t.Errorf("it ended after %v", waited)
		}
		if err := <-asked; err == nil {
			t.Error("an event was acknowledged that the log did not answer for")
		}
		c.Coordinators[0].Start()
		c.Client.Publish(sim.Event("e20", "order.created"))
		c.AwaitSettled(time.Minute)
		checkEvents(t, c, 21)
		checkDelivered(t, c, e, a, 21)
	})
}
