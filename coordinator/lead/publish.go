package lead

import (
	"context"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// Publish hands events over to be made durable, in the order of the calls, and
// returns what to wait on. It waits itself while too much is handed over and
// not written. Without space for them they are refused, with ErrFull or
// eventlog.ErrNoSpace: none of them was stored, nor will be.
func (l *Leader) Publish(ctx context.Context, events []*linkv1.LoggedEvent) (*Publishing, error) {
	size := int64(0)
	for _, e := range events {
		size += int64(len(e.GetEvent()))
	}
	size = min(size, int64(l.config.PendingBytes))
	if err := l.pending.Acquire(ctx, size); err != nil {
		return nil, err
	}
	l.pendingBytes.Add(size)
	call := &publishCall{duplicates: make([]bool, len(events)), left: len(events), done: make(chan error, 1)}
	err := l.do(ctx, func(loop *loop) {
		err := loop.refusal()
		if err == nil && loop.silent() {
			err = ErrNoAnswer
		}
		if err != nil {
			call.fail(err)
			return
		}
		for i, e := range events {
			loop.pending.events = append(loop.pending.events, published{e, i, call})
		}
	})
	if err != nil {
		l.release(size)
		return nil, err
	}
	return &Publishing{l, call, size}, nil
}

// release gives back room for events that were handed over.
func (l *Leader) release(size int64) {
	l.pendingBytes.Add(-size)
	l.pending.Release(size)
}

// Publishing is events on their way into the log.
type Publishing struct {
	leader *Leader
	call   *publishCall
	size   int64
}

// Wait returns once the events are durable, and says of each whether one of
// its id was there before. It must be called once. On an error some of the
// events may be durable; a context that ends while the log does not answer is
// such an error.
func (p *Publishing) Wait(ctx context.Context) (duplicates []bool, err error) {
	defer p.leader.release(p.size)
	if err := p.leader.await(ctx, p.call.done); err != nil {
		return nil, err
	}
	return p.call.duplicates, nil
}

// await returns what the loop answers. When the leadership ends the loop
// answers everybody it knows; a call it has not seen is answered here. A log
// that does not answer is waited for as long as Patience.
func (l *Leader) await(ctx context.Context, done <-chan error) error {
	patience := time.NewTimer(l.config.Patience)
	defer patience.Stop()
	select {
	case err := <-done:
		return err
	case <-patience.C:
		return ErrNoAnswer
	case <-ctx.Done():
		return ctx.Err()
	case <-l.ended:
	}
	select {
	case err := <-done:
		return err
	default:
		return ErrNotLeading
	}
}

// Change makes a change durable. build is run with the state that the change
// will be applied to, and adds it to the record; of the state it must only
// read, and an error it returns is returned, and nothing is changed. target
// names what is changed: no two changes of one target are in one record. next
// is the number to give to a subscription that is new.
func (l *Leader) Change(ctx context.Context, target string,
	build func(state *ledger.Ledger, next ledger.Number, record *linkv1.Record) error,
) error {
	return l.change(ctx, &change{target: target, build: build})
}

// ChangeTenant is Change for a tenant: nothing else is changed in the same
// record.
func (l *Leader) ChangeTenant(ctx context.Context, build func(state *ledger.Ledger) (*linkv1.TenantChange, error)) error {
	return l.change(ctx, &change{
		target: tenantTarget,
		build: func(state *ledger.Ledger, _ ledger.Number, record *linkv1.Record) error {
			tenant, err := build(state)
			if err == nil {
				record.Tenants = append(record.Tenants, tenant)
			}
			return err
		},
	})
}

func (l *Leader) change(ctx context.Context, c *change) error {
	done := make(chan error, 1)
	c.done = done
	err := l.do(ctx, func(loop *loop) {
		switch {
		case loop.pending.full:
			done <- eventlog.ErrNoSpace
			return
		case loop.silent():
			done <- ErrNoAnswer
			return
		}
		loop.pending.changes = append(loop.pending.changes, c)
	})
	if err != nil {
		return err
	}
	return l.await(ctx, done)
}
