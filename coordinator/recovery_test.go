package coordinator_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// These tests run a coordinator on the engines of `fanfare dev`, stop it, do to
// the files what disks and people do, and start it again. What was acknowledged
// is there, or the partition is halted and says so: there is no third way.

const (
	published = 40            // events of each tenant before the damage
	tail      = published + 3 // the last record: before them are fence, tenant and subscription
)

// install makes an installation that has published events and was stopped.
func install(t *testing.T) *data {
	t.Helper()
	d := &data{t, t.TempDir()}
	d.run(func(r *running) {
		r.settle()
		r.publishNew(0, published)
		for partition := range partitions {
			if n := r.listed(partition); n != published {
				t.Fatalf("the history has %d events of partition %d", n, partition)
			}
		}
	})
	return d
}

// installKilled is install, but with NATS's files as they are when its process
// is killed, after the coordinator's has left: without the index it writes when
// it stops.
func installKilled(t *testing.T) *data {
	t.Helper()
	d := &data{t, t.TempDir()}
	var killed string
	d.run(func(r *running) {
		r.settle()
		r.publishNew(0, published)
		for partition := range partitions {
			r.listed(partition) // waits until the history has it all
		}
		r.must(r.leave())
		killed = d.copyOf(natsDir)
	})
	d.putBack(natsDir, killed)
	return d
}

// fork makes an installation with a copy of the data, for t.
func (d *data) fork(t *testing.T) *data {
	t.Helper()
	return &data{t, (&data{t, d.dir}).copyOf(".")}
}

func onlyOneHalted(r *running) { r.checkOnlyOneHalted(published) }
func allHalted(r *running)     { r.checkAllHalted() }
func intact(r *running) {
	r.Helper()
	if halted := r.coordinator.HaltedPartitions(); len(halted) > 0 {
		r.Errorf("partitions %v are halted", halted)
	}
	for partition := range partitions {
		r.checkIntact(partition, published)
		if n := r.listed(partition); n != published+1 {
			r.Errorf("the history of partition %d has %d events, want %d", partition, n, published+1)
		}
	}
}

// index is the file in which NATS remembers, when it stops, what its blocks
// hold. With it, what is missing from a block is a gap; without it the log just
// ends earlier.
func (d *data) index() string { return filepath.Join(d.streamDir(logStream), "msgs", "index.db") }

func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	stopped, killed := install(t), installKilled(t)
	for name, test := range map[string]struct {
		from   *data
		damage func(*data)
		check  func(*running)
	}{
		"nothing":               {stopped, func(*data) {}, intact},
		"killed, nothing":       {killed, func(*data) {}, intact},
		"a bit is flipped":      {stopped, func(d *data) { d.flip(d.newestBlock(logStream), 10_000) }, onlyOneHalted},
		"a bit of the last":     {stopped, func(d *data) { d.flip(d.newestBlock(logStream), 500) }, onlyOneHalted},
		"the end is cut off":    {stopped, func(d *data) { d.cut(d.newestBlock(logStream), 10) }, onlyOneHalted},
		"half is cut off":       {stopped, func(d *data) { d.cut(d.newestBlock(logStream), 20_000) }, onlyOneHalted},
		"all is cut off":        {stopped, func(d *data) { d.cut(d.newestBlock(logStream), 1<<30) }, onlyOneHalted},
		"the block is deleted":  {stopped, func(d *data) { d.remove(d.newestBlock(logStream)) }, onlyOneHalted},
		"the index is deleted":  {stopped, func(d *data) { d.remove(d.index()) }, intact},
		"meta.sum is deleted":   {stopped, func(d *data) { d.remove(filepath.Join(d.streamDir(logStream), "meta.sum")) }, intact},
		"meta.inf is deleted":   {stopped, func(d *data) { d.remove(filepath.Join(d.streamDir(logStream), "meta.inf")) }, intact},
		"the stream is deleted": {stopped, func(d *data) { d.remove(d.streamDir(logStream)) }, onlyOneHalted},

		"killed, a bit is flipped":     {killed, func(d *data) { d.flip(d.newestBlock(logStream), 10_000) }, onlyOneHalted},
		"killed, the end is cut off":   {killed, func(d *data) { d.cut(d.newestBlock(logStream), 10) }, onlyOneHalted},
		"killed, all is cut off":       {killed, func(d *data) { d.cut(d.newestBlock(logStream), 1<<30) }, onlyOneHalted},
		"killed, meta.sum is deleted":  {killed, func(d *data) { d.remove(filepath.Join(d.streamDir(logStream), "meta.sum")) }, intact},
		"killed, the block is deleted": {killed, func(d *data) { d.remove(d.newestBlock(logStream)) }, onlyOneHalted},

		"with the history, the end is cut off": {stopped, func(d *data) {
			d.cut(d.newestBlock(logStream), 10)
			d.remove(d.index())
			d.removeHistory()
		}, func(r *running) { r.checkHalted() }},
		"with the history, the stream is deleted": {stopped, func(d *data) {
			d.remove(d.streamDir(logStream))
			d.removeHistory()
		}, func(r *running) { r.checkHalted() }},
		"with the snapshots and the history, the stream is deleted": {stopped, func(d *data) {
			d.snapshot(10, 20)
			d.remove(d.streamDir(logStream), d.streamDir(snapshotsStream))
			d.removeHistory()
		}, func(r *running) { r.checkHalted() }},
		"all of NATS is deleted": {stopped, func(d *data) { d.remove(d.path(natsDir)) }, allHalted},
		"all of NATS and the history are deleted": {stopped, func(d *data) {
			d.remove(d.path(natsDir))
			d.removeHistory()
		}, allHalted},
		"all of NATS and etcd are deleted": {stopped, func(d *data) { d.remove(d.path(natsDir), d.path(etcdDir)) }, allHalted},
		"etcd is deleted":                  {stopped, func(d *data) { d.remove(d.path(etcdDir)) }, intact},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := test.from.fork(t)
			test.damage(d)
			d.run(test.check)
		})
	}
}

// An older copy of a part is not the data that was acknowledged; an older copy
// of all of it is what a backup is: everything goes on from there.
func TestOlderCopies(t *testing.T) {
	const later = 10 // events since the copies were made
	type copies struct{ nats, etcd, history string }
	t.Parallel()
	installed := install(t)
	before := copies{installed.copyOf(natsDir), installed.copyOf(etcdDir), installed.copyOfHistory()}
	installed.run(func(r *running) {
		r.publishNew(published, published+later)
		for partition := range partitions {
			r.listed(partition)
		}
	})
	for name, test := range map[string]struct {
		restore func(*data, copies)
		check   func(*running)
	}{
		"of NATS": {func(d *data, c copies) { d.putBack(natsDir, c.nats) }, allHalted},
		"of NATS, without history": {func(d *data, c copies) {
			d.putBack(natsDir, c.nats)
			d.removeHistory()
		}, allHalted},
		"of NATS and etcd": {func(d *data, c copies) {
			d.putBack(natsDir, c.nats)
			d.putBack(etcdDir, c.etcd)
		}, allHalted},
		"of NATS and the history": {func(d *data, c copies) {
			d.putBack(natsDir, c.nats)
			d.putBackHistory(c.history)
		}, allHalted},
		"of etcd": {func(d *data, c copies) { d.putBack(etcdDir, c.etcd) }, func(r *running) {
			r.checkIntact(0, published+later)
			r.checkIntact(1, published+later)
		}},
		"of the history": {func(d *data, c copies) { d.putBackHistory(c.history) }, func(r *running) {
			if n := r.listed(damaged); n != published+later {
				r.Errorf("the history has %d events, want %d", n, published+later)
			}
			r.checkIntact(0, published+later)
			r.checkIntact(1, published+later)
		}},
		"of all": {func(d *data, c copies) {
			d.putBack(natsDir, c.nats)
			d.putBack(etcdDir, c.etcd)
			d.putBackHistory(c.history)
		}, func(r *running) {
			intact(r)
			r.publishNew(published+1, published+later)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := installed.fork(t)
			test.restore(d, before)
			d.run(test.check)
		})
	}
}

func (d *data) copyOfHistory() string {
	d.Helper()
	to := filepath.Join(d.TempDir(), historyFile)
	d.copyFile(d.path(historyFile), to)
	return to
}

func (d *data) putBackHistory(from string) {
	d.Helper()
	d.removeHistory()
	d.copyFile(from, d.path(historyFile))
}

func (d *data) copyFile(from, to string) {
	d.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, 0o600)
	}
	if err != nil {
		d.Fatal(err)
	}
}

// What can be made again is made again; what cannot is missed.
func TestSnapshotsAndHistory(t *testing.T) {
	t.Parallel()
	installed := install(t)
	historyFrom := func(n int) func(*running) {
		return func(r *running) {
			r.checkKnown(damaged, published)
			if got := r.listed(damaged); got != n+1 {
				r.Errorf("the history has %d events, want %d and a new one", got, n)
			}
		}
	}
	for name, test := range map[string]struct {
		damage func(*data)
		check  func(*running)
	}{
		"the history is deleted": {func(d *data) { d.removeHistory() }, intact},
		"the history is deleted, the log is there from the start": {func(d *data) {
			d.snapshot(10, 20)
			d.removeHistory()
		}, intact},
		"the snapshots are deleted, the log is there from the start": {func(d *data) {
			d.snapshot(10, 20)
			d.remove(d.streamDir(snapshotsStream))
		}, intact},
		"both are deleted, the log is there from the start": {func(d *data) {
			d.snapshot(10, 20)
			d.remove(d.streamDir(snapshotsStream))
			d.removeHistory()
		}, intact},
		"the newest snapshot is torn": {func(d *data) {
			d.snapshot(10, 20)
			d.cut(d.newestBlock(snapshotsStream), 10)
		}, intact},
		"the newest snapshot has a flipped bit": {func(d *data) {
			d.snapshot(10, 20)
			d.flip(d.newestBlock(snapshotsStream), 500)
		}, intact},
		"a snapshot is newer than the log": {func(d *data) {
			d.snapshot(10, tail)
			d.cut(d.newestBlock(logStream), 5000)
			d.remove(d.index(), d.path(etcdDir))
			d.removeHistory()
		}, func(r *running) { r.checkHalted() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := installed.fork(t)
			test.damage(d)
			d.run(test.check)
		})
	}
	// Nothing is owed in these, so that the log can be purged.
	settled := installed.fork(t)
	settled.deleteSubscription()
	for name, test := range map[string]struct {
		damage func(*data)
		check  func(*running)
	}{
		"the log was purged": {func(d *data) { d.snapshotAndPurge(20, 30) }, historyFrom(published)},
		"the log was purged, the history is deleted": {func(d *data) {
			d.snapshotAndPurge(20, 30)
			d.removeHistory()
		}, historyFrom(tail - 20)},
		"the log was purged, the newest snapshot is torn": {func(d *data) {
			d.snapshotAndPurge(20, 30)
			d.cut(d.newestBlock(snapshotsStream), 10)
		}, historyFrom(published)},
		"the log was purged, the snapshots are deleted": {func(d *data) {
			d.snapshotAndPurge(20, 30)
			d.remove(d.streamDir(snapshotsStream))
		}, func(r *running) { r.checkHalted() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := settled.fork(t)
			test.damage(d)
			d.run(test.check)
		})
	}
}

// A leader whose log goes away, or whose log is another one all of a sudden,
// does not try for ever, acknowledges nothing, and halts.
func TestLogGoesUnderALeader(t *testing.T) {
	t.Parallel()
	installed := install(t)
	name := fmt.Sprintf(logStream, damaged)
	for does, damage := range map[string]func(*running, jetstream.JetStream){
		"vanish": func(r *running, js jetstream.JetStream) { r.must(js.DeleteStream(r.Context(), name)) },
		"begin anew": func(r *running, js jetstream.JetStream) {
			stream, err := js.Stream(r.Context(), name)
			r.must(err)
			r.must(js.DeleteStream(r.Context(), name))
			_, err = js.CreateStream(r.Context(), stream.CachedInfo().Config)
			r.must(err)
		},
	} {
		t.Run(does, func(t *testing.T) {
			t.Parallel()
			installed.fork(t).run(func(r *running) {
				r.listed(damaged) // so that all of the leader has begun
				js, err := jetstream.New(r.nats)
				r.must(err)
				damage(r, js)
				if _, err := r.publish(damaged, published, published+1); status.Code(err) != codes.Unavailable {
					t.Errorf("publishing: %v, want UNAVAILABLE", err)
				}
				for r.coordinator.Halted(damaged) == nil {
					select {
					case <-time.After(50 * time.Millisecond):
					case <-t.Context().Done():
						t.Fatal("the partition does not halt")
					}
				}
				r.checkOnlyOneHalted(published)
			})
		})
	}
}

// The way out when nothing can be restored, as docs/operations.md has it: one
// partition begins anew, the others keep everything.
func TestGivingAPartitionUp(t *testing.T) {
	t.Parallel()
	d := install(t)
	d.cut(d.newestBlock(logStream), 1<<30)
	d.run(onlyOneHalted)
	d.remove(d.streamDir(logStream), d.streamDir(snapshotsStream), d.path(etcdDir))
	d.removeHistory()
	d.run(func(r *running) {
		if halted := r.coordinator.HaltedPartitions(); len(halted) > 0 {
			t.Errorf("partitions %v are halted", halted)
		}
		other := damaged + 1
		r.checkIntact(other, published+1) // one came while the first was halted
		if n := r.listed(other); n != published+2 {
			t.Errorf("the history of the other partition has %d events, want %d", n, published+2)
		}
		if _, err := r.publish(damaged, 0, 1); status.Code(err) != codes.NotFound {
			t.Errorf("publishing to a tenant that was given up: %v, want NOT_FOUND", err)
		}
	})
}
