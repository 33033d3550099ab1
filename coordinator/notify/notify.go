package notify

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Listener is told of alerts, and passes them on while Run runs. But for Run
// its methods return at once; they may be called at any time, by anybody. What
// they mean is said at lead.Told.
type Listener interface {
	Tell(source string, what alert.Notification)
	Remind(source string, firing []*fanfarev1.Alert)
	Forget(source string)
	// Run passes on until ctx ends, which is its error.
	Run(ctx context.Context) error
}

// Sink takes notifications, one at a time.
type Sink interface {
	// Name tells it from others, in logs and metrics.
	Name() string
	// Send passes one on. It is called again if it fails, unless the error is a
	// *PermanentError.
	Send(ctx context.Context, what alert.Notification) error
}

// PermanentError says that a sink will never take a notification.
type PermanentError struct{ Err error }

// Error is that of what went wrong.
func (e *PermanentError) Error() string { return e.Err.Error() }

// Unwrap returns what went wrong.
func (e *PermanentError) Unwrap() error { return e.Err }

// All is several listeners in one.
type All []Listener

// Tell implements Listener.
func (a All) Tell(source string, what alert.Notification) {
	for _, l := range a {
		l.Tell(source, what)
	}
}

// Remind implements Listener.
func (a All) Remind(source string, firing []*fanfarev1.Alert) {
	for _, l := range a {
		l.Remind(source, firing)
	}
}

// Forget implements Listener.
func (a All) Forget(source string) {
	for _, l := range a {
		l.Forget(source)
	}
}

// Run implements Listener. It returns when ctx ends.
func (a All) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range a {
		group.Go(func() error { return l.Run(ctx) })
	}
	group.Go(func() error {
		<-ctx.Done()
		return ctx.Err()
	})
	return group.Wait()
}

// isPermanent reports whether it is of no use to try again.
func isPermanent(err error) bool {
	_, permanent := errors.AsType[*PermanentError](err)
	return permanent
}
