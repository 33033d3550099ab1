package lead

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/history"
)

const mebibyte = 1 << 20

// watched is a disk with a script, and what was logged of it.
type watched struct {
	*Disk
	free, total uint64
	err         error
	said        bytes.Buffer
}

func watch(reserve uint64) *watched {
	w := &watched{total: 100 << 30}
	w.Disk = NewDisk(DiskConfig{
		Free:    func() (free, total uint64, err error) { return w.free, w.total, w.err },
		Reserve: reserve,
		Logger:  slog.New(slog.NewTextHandler(&w.said, nil)),
	})
	return w
}

// see makes the disk be looked at, and returns what it allows.
func (w *watched) see(free uint64) string {
	w.free = free
	w.look()
	return w.allows()
}

func (w *watched) allows() string {
	switch {
	case w.exhaustion() != nil:
		return "nothing"
	case w.Full() != nil:
		return "outcomes"
	case w.tight():
		return "all, sparingly"
	}
	return "all"
}

func TestDiskBounds(t *testing.T) {
	w := watch(800)
	if got := w.allows(); got != "all" {
		t.Errorf("before it was seen it allows %s", got)
	}
	for i, step := range []struct {
		free uint64
		want string
	}{
		{1600, "all"},
		{1599, "all, sparingly"},
		{1699, "all, sparingly"},
		{1700, "all"},
		{800, "all, sparingly"},
		{799, "outcomes"},
		{899, "outcomes"},
		{900, "all, sparingly"},
		{200, "outcomes"},
		{199, "nothing"},
		{299, "nothing"},
		{300, "outcomes"},
		{0, "nothing"},
		{5000, "all"},
	} {
		if got := w.see(step.free); got != step.want {
			t.Errorf("step %d: with %d free it allows %s, want %s", i, step.free, got, step.want)
		}
	}
	// One line for each change that somebody outside sees, and no more.
	if got := strings.Count(w.said.String(), "\n"); got != 7 {
		t.Errorf("%d lines were logged, want 7:\n%s", got, &w.said)
	}
}

func TestDiskCountsWhatIsAppended(t *testing.T) {
	w := watch(800)
	w.see(1000)
	w.charge(200)
	if got := w.allows(); got != "all, sparingly" {
		t.Errorf("with 800 left it allows %s", got)
	}
	w.charge(1)
	if got := w.allows(); got != "outcomes" {
		t.Errorf("with 799 left it allows %s", got)
	}
	w.charge(10_000)
	if got := w.allows(); got != "nothing" {
		t.Errorf("with nothing left it allows %s", got)
	}
	if got := w.see(1000); got != "all, sparingly" {
		t.Errorf("with 1000 left after all it allows %s", got)
	}
	// What is appended while it is looked at may not be in what is seen.
	w.config.Free = func() (free, total uint64, err error) {
		w.charge(300)
		return 1000, w.total, nil
	}
	w.look()
	if got := w.allows(); got != "outcomes" {
		t.Errorf("with 300 appended during the look it allows %s", got)
	}
}

func TestDiskDefaultReserve(t *testing.T) {
	for _, test := range []struct{ total, want uint64 }{
		{1 << 30, MinDefaultReserve},
		{20 << 30, 20 << 30 / DefaultReserveShare},
		{10 << 40, MaxDefaultReserve},
	} {
		w := watch(0)
		w.total = test.total
		if got := w.see(test.want); got != "all, sparingly" {
			t.Errorf("of %d bytes with %d free it allows %s", test.total, test.want, got)
		}
		if got := w.see(test.want - 1); got != "outcomes" {
			t.Errorf("of %d bytes with %d free it allows %s", test.total, test.want-1, got)
		}
	}
}

// A look that fails changes nothing, and is said once.
func TestDiskBlind(t *testing.T) {
	w := watch(800)
	w.see(799)
	w.err = errors.New("no such file system")
	for range 3 {
		if got := w.see(5000); got != "outcomes" {
			t.Errorf("blind it allows %s, want what it did", got)
		}
	}
	if got := strings.Count(w.said.String(), "no such file system"); got != 1 {
		t.Errorf("it was said %d times that it cannot be seen", got)
	}
	w.err = nil
	if got := w.see(5000); got != "all" {
		t.Errorf("seeing again it allows %s", got)
	}
}

// Something large must fit above the last quarter of the reserve.
func TestDiskFits(t *testing.T) {
	w := watch(800)
	w.see(1000)
	if err := w.fits(800); err != nil {
		t.Errorf("800 bytes of 1000: %v", err)
	}
	if err := w.fits(801); !errors.Is(err, ErrFull) {
		t.Errorf("801 bytes of 1000: %v, want ErrFull", err)
	}
}

// Without a disk to watch nothing is refused.
func TestNoDisk(t *testing.T) {
	var none *Disk
	none.charge(1)
	if none.Full() != nil || none.exhaustion() != nil || none.fits(1) != nil || none.tight() {
		t.Error("a disk that is not there refuses")
	}
}

func TestLogLimitDoesNotFlap(t *testing.T) {
	l := &Leader{config: Config{MaxLogBytes: 8 * mebibyte}, logger: slog.New(slog.DiscardHandler)}
	var r room
	for i, step := range []struct {
		bytes uint64
		full  bool
	}{
		{8*mebibyte - 1, false},
		{8 * mebibyte, true},
		{7*mebibyte + 1, true},
		{7 * mebibyte, true},
		{7*mebibyte - 1, false},
		{8*mebibyte - 1, false},
		{9 * mebibyte, true},
	} {
		if r.judge(step.bytes, l); r.full != step.full {
			t.Errorf("step %d: at %d bytes full is %v", i, step.bytes, r.full)
		}
	}
}

func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := silence{limit: 30 * time.Second}
		lost := fmt.Errorf("%w: no answer", eventlog.ErrUnknown)
		heard := func(after time.Duration, err error) error {
			began := time.Now()
			<-time.After(after)
			return s.heard(began, err)
		}
		if err := heard(10*time.Second, lost); err != nil {
			t.Errorf("after 10 s: %v", err)
		}
		if err := heard(10*time.Second, errors.New("cannot be read")); err != nil {
			t.Errorf("after another error: %v", err)
		}
		if err := heard(10*time.Second, lost); !errors.Is(err, ErrSilent) {
			t.Errorf("after 30 s: %v, want ErrSilent", err)
		}
		if err := heard(0, nil); err != nil {
			t.Errorf("after an answer: %v", err)
		}
		if err := heard(29*time.Second, lost); err != nil {
			t.Errorf("29 s after an answer: %v", err)
		}
		s = silence{}
		if err := heard(time.Hour, lost); err != nil {
			t.Errorf("without a limit: %v", err)
		}
	})
}

// written is a history that counts what it is asked to write.
type written struct {
	history.Store
	batches int
}

func (w *written) Write(context.Context, history.Batch) error {
	w.batches++
	return nil
}

// The history must not take the last space from the log on the same disk.
func TestHistoryWaitsForSpace(t *testing.T) {
	w, store := watch(800), new(written)
	f := newFollower(&Leader{config: Config{Disk: w.Disk, History: store}}, ledger.New())
	w.see(0)
	if err := f.write(t.Context(), history.Batch{}); !errors.Is(err, ErrFull) || store.batches != 0 {
		t.Errorf("without space: %v and %d batches, want ErrFull and none", err, store.batches)
	}
	w.see(500)
	if err := f.write(t.Context(), history.Batch{}); err != nil || store.batches != 1 {
		t.Errorf("below the reserve: %v and %d batches, want one", err, store.batches)
	}
}
