package lead

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/coordinator/dispatch"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

const (
	// endpointsPerMessage is how many subscriptions one part of a snapshot has.
	endpointsPerMessage = 200
	// dispatchBatchBytes is about how many bytes one message of dispatches has
	// at most, unless it has only one: a few hundred of small events.
	dispatchBatchBytes = 256 << 10
	// dispatchOverhead and targetOverhead are what a dispatch takes beside its
	// event, and what each of its targets does; rather more than less.
	dispatchOverhead = 128
	targetOverhead   = 32
)

// Stream is a session's end of an Attach call.
type Stream interface {
	Context() context.Context
	Send(*linkv1.AttachResponse) error
	Recv() (*linkv1.AttachRequest, error)
}

// session is one attached worker. The loop puts messages into its outbox and
// never waits: what can be in there is bounded by the worker's credit and by
// the subscriptions of its shards.
type session struct {
	id      dispatch.SessionID // set by the loop before anything else
	worker  dispatch.Worker
	claimed map[int]bool  // slots; owned by the loop
	epochs  map[int]int64 // of the slots; owned by the loop
	cancel  context.CancelFunc
	secrets Opener
	logger  *slog.Logger
	sent    func(*linkv1.Dispatch, *dispatching) // records and measures a dispatch that goes
	outbox  *queue[message]
	batches bool      // the worker takes dispatches in batches
	ends    time.Time // of the worker's certificate; zero: it has shown none
}

// message makes a message when its turn to be sent comes, off the loop.
type message func() *linkv1.AttachResponse

// Attached returns which workers are attached.
func (l *Leader) Attached(ctx context.Context) (workers map[string]bool, err error) {
	err = l.call(ctx, func(loop *loop) {
		workers = make(map[string]bool, len(loop.sessions))
		for _, s := range loop.sessions {
			workers[s.worker.ID] = true
		}
	})
	return workers, err
}

// Attach serves a session until the stream or the leadership ends. hello was
// received from the stream already. It returns a gRPC status.
func (l *Leader) Attach(stream Stream, hello *linkv1.Hello) error {
	if hello.GetWorker() == "" || hello.GetCreditCount() == 0 || hello.GetCreditBytes() == 0 {
		return status.Error(codes.FailedPrecondition, "hello lacks a worker, credit_count or credit_bytes")
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	s := &session{
		worker:  dispatch.Worker{ID: hello.GetWorker(), Incarnation: hello.GetIncarnation()},
		claimed: make(map[int]bool),
		epochs:  make(map[int]int64),
		cancel:  cancel,
		secrets: l.config.Secrets,
		logger:  l.logger,
		outbox:  newQueue[message](),
		batches: hello.GetTakesDispatchBatches(),
		ends:    certificateEnds(ctx),
	}
	s.sent = func(d *linkv1.Dispatch, traced *dispatching) {
		traced.record(ctx, d, s.worker.ID)
		l.metrics.dispatched(ctx, d)
	}
	credit := dispatch.NewCredit(hello.GetCreditCount(), hello.GetCreditBytes())
	if err := l.call(ctx, func(loop *loop) { loop.attach(s, credit, hello.GetInHand()) }); err != nil {
		return unavailable(err)
	}
	received := make(chan error, 1)
	go func() {
		received <- l.receive(ctx, stream, s)
		cancel()
	}()
	err := s.send(ctx, stream)
	// Detaching must not be lost with the session's own context. It fails
	// only when there is no loop left to detach from.
	_ = l.do(context.WithoutCancel(ctx), func(loop *loop) { loop.detach(s) })
	// What ended the session is what the worker did, if it did something; a
	// receiver that still waits ends with the stream, when this returns.
	select {
	case err = <-received:
	default:
	}
	return unavailable(err)
}

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unavailable, err.Error())
}

// receive hands what the worker says to the loop.
func (l *Leader) receive(ctx context.Context, stream Stream, s *session) error {
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var refused error
		switch request.GetMessage().(type) {
		case *linkv1.AttachRequest_Claim:
			err = l.do(ctx, func(loop *loop) { loop.claim(s, request.GetClaim()) })
		case *linkv1.AttachRequest_Release:
			err = l.do(ctx, func(loop *loop) { loop.release(s, request.GetRelease()) })
		case *linkv1.AttachRequest_Outcomes:
			err = l.do(ctx, func(loop *loop) { loop.outcomes(s, request.GetOutcomes()) })
		case *linkv1.AttachRequest_Credit:
			if credit := request.GetCredit(); credit.GetCreditCount() == 0 || credit.GetCreditBytes() == 0 {
				refused = status.Error(codes.FailedPrecondition, "credit lacks a credit_count or credit_bytes")
			} else {
				err = l.do(ctx, func(loop *loop) {
					loop.dispatch.Grant(s.id, dispatch.NewCredit(credit.GetCreditCount(), credit.GetCreditBytes()))
				})
			}
		default:
			refused = status.Errorf(codes.FailedPrecondition, "unexpected message %T", request.GetMessage())
		}
		if err := errors.Join(err, refused); err != nil {
			return err
		}
	}
}

// send empties the outbox into the stream until ctx ends.
func (s *session) send(ctx context.Context, stream Stream) error {
	for {
		batch, err := s.outbox.take(ctx)
		if err != nil {
			return err
		}
		if err := s.sendAll(stream, batch); err != nil {
			return err
		}
	}
}

// sendAll sends messages in their order, dispatches that follow each other as
// one.
func (s *session) sendAll(stream Stream, messages []message) error {
	var dispatches []*linkv1.Dispatch
	size := 0
	flush := func() error {
		if len(dispatches) == 0 {
			return nil
		}
		all := &linkv1.AttachResponse{Message: &linkv1.AttachResponse_Dispatches{
			Dispatches: &linkv1.DispatchBatch{Dispatches: dispatches},
		}}
		dispatches, size = nil, 0
		return stream.Send(all)
	}
	for _, m := range messages {
		response := m()
		if d := response.GetDispatch(); d != nil && s.batches {
			more := len(d.GetEvent()) + dispatchOverhead + len(d.GetTargets())*targetOverhead
			if size+more > dispatchBatchBytes {
				if err := flush(); err != nil {
					return err
				}
			}
			dispatches, size = append(dispatches, d), size+more
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
	return flush()
}

func (s *session) putResponse(r *linkv1.AttachResponse) {
	s.outbox.put(func() *linkv1.AttachResponse { return r })
}

// dispatch passes an event on. traced, unless it is nil, says so in a trace when
// it goes.
func (s *session) dispatch(d *linkv1.Dispatch, traced *dispatching) {
	s.outbox.put(func() *linkv1.AttachResponse {
		s.sent(d, traced)
		return &linkv1.AttachResponse{Message: &linkv1.AttachResponse_Dispatch{Dispatch: d}}
	})
}

func (s *session) durable(number uint64) {
	s.putResponse(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Durable{Durable: &linkv1.Durable{Number: number}}})
}

// subscriptionChanged passes on what became of one of the worker's
// subscriptions.
func (s *session) subscriptionChanged(slot int, change ledger.SubscriptionChange) {
	delta := &linkv1.SubscriptionDelta{Slot: int32(slot)} //nolint:gosec // few slots
	if change.Current == nil {
		delta.Deleted = uint64(change.Number)
		s.putResponse(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Delta{Delta: delta}})
		return
	}
	stored := change.Current.Stored
	s.outbox.put(func() *linkv1.AttachResponse {
		delta.Put = s.endpoint(change.Number, stored)
		return &linkv1.AttachResponse{Message: &linkv1.AttachResponse_Delta{Delta: delta}}
	})
}

// snapshot passes on all subscriptions of a slot, in parts.
func (s *session) snapshot(slot int, epoch int64, all []*ledger.Subscription) {
	type stored struct {
		number ledger.Number
		stored *linkv1.StoredSubscription
	}
	parts := make([]stored, 0, len(all))
	for _, sub := range all { // the ledger's own values stay in the loop
		parts = append(parts, stored{sub.Number, sub.Stored})
	}
	for first := true; first || len(parts) > 0; first = false {
		n := min(len(parts), endpointsPerMessage)
		part := parts[:n]
		parts = parts[n:]
		complete := len(parts) == 0
		s.outbox.put(func() *linkv1.AttachResponse {
			message := &linkv1.ShardSnapshot{Slot: int32(slot), Epoch: epoch, Complete: complete} //nolint:gosec // few slots
			for _, sub := range part {
				message.Endpoints = append(message.Endpoints, s.endpoint(sub.number, sub.stored))
			}
			return &linkv1.AttachResponse{Message: &linkv1.AttachResponse_Snapshot{Snapshot: message}}
		})
	}
}

func (s *session) endpoint(number ledger.Number, stored *linkv1.StoredSubscription) *linkv1.Endpoint {
	endpoint := &linkv1.Endpoint{
		Number:         uint64(number),
		Tenant:         stored.GetTenant(),
		Subscription:   stored.GetSubscription(),
		SubscriptionId: stored.GetId(),
	}
	for i, sealed := range stored.GetSealedSecrets() {
		secret, err := s.secrets.Open(sealed)
		if err != nil { // it concerns this subscription only: without a secret nothing is sent
			s.logger.Error("opening a secret", "subscription", stored.GetId(), "error", err)
			continue
		}
		var ends int64
		if all := stored.GetSecretExpireTimesUnixMs(); i < len(all) {
			ends = all[i]
		}
		endpoint.Secrets = append(endpoint.Secrets, secret)
		endpoint.SecretExpireTimesUnixMs = append(endpoint.SecretExpireTimesUnixMs, ends)
	}
	var err error
	if endpoint.Credentials, err = credentials(s.secrets, stored); err != nil { // likewise: without them nothing is sent
		s.logger.Error("opening credentials", "subscription", stored.GetId(), "error", err)
		endpoint.Secrets = nil
	}
	return endpoint
}

// credentials opens what is masked in a subscription; nil if there is nothing.
func credentials(secrets Opener, stored *linkv1.StoredSubscription) (*linkv1.Credentials, error) {
	if len(stored.GetSealedCredentials()) == 0 {
		return nil, nil //nolint:nilnil // a subscription without credentials is no error
	}
	encoded, err := secrets.Open(stored.GetSealedCredentials())
	if err != nil {
		return nil, err
	}
	opened := new(linkv1.Credentials)
	return opened, proto.Unmarshal([]byte(encoded), opened)
}

// attach begins a session of a worker that has something in hand already.
func (l *loop) attach(s *session, credit dispatch.Credit, inHand []*linkv1.DeliveryRef) {
	l.lastID++
	s.id = l.lastID
	l.sessions[s.id] = s
	l.dispatch.Attach(s.id, s.worker, credit)
	l.dispatch.Keep(s.id, deliveriesOf(inHand))
	l.gate.heard(s.worker.ID, time.Now())
	l.leader.logger.Info("worker attached", "worker", s.worker.ID, "session", s.id)
	s.putResponse(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Welcome{Welcome: &linkv1.Welcome{
		Epoch:             l.ledger.Epoch(),
		OutcomeIntervalMs: uint32(l.leader.config.OutcomeInterval.Milliseconds()), //nolint:gosec // well below
		OutcomeBatch:      uint32(l.leader.config.OutcomeBatch),                   //nolint:gosec // well below
		TakesCredit:       true,
	}}})
}

// detach ends a session.
func (l *loop) detach(s *session) {
	if l.sessions[s.id] == nil {
		return
	}
	delete(l.sessions, s.id)
	l.dispatch.Detach(s.id)
	l.leader.logger.Info("worker detached", "worker", s.worker.ID, "session", s.id)
}

func (l *loop) endSessions() {
	for _, s := range l.sessions {
		s.cancel()
	}
}

// claim gives a slot to a session.
func (l *loop) claim(s *session, claim *linkv1.Claim) {
	slot := int(claim.GetSlot())
	if l.sessions[s.id] == nil || !l.dispatch.Claim(s.id, slot, claim.GetEpoch(), deliveriesOf(claim.GetInHand())) {
		l.leader.logger.Warn("a claim was refused", "worker", s.worker.ID, "slot", slot, "epoch", claim.GetEpoch())
		s.cancel()
		return
	}
	for _, other := range l.sessions {
		delete(other.claimed, slot)
	}
	s.claimed[slot] = true
	var members []*ledger.Subscription
	for _, number := range l.dispatch.Members(slot) {
		members = append(members, l.ledger.Subscription(number))
	}
	s.snapshot(slot, claim.GetEpoch(), members)
}

func deliveriesOf(refs []*linkv1.DeliveryRef) []ledger.Delivery {
	deliveries := make([]ledger.Delivery, 0, len(refs))
	for _, ref := range refs {
		deliveries = append(deliveries, ledger.Delivery{
			Subscription: ledger.Number(ref.GetSubscription()),
			Position:     ledger.Position{Sequence: ref.GetSequence(), Index: ref.GetIndex()},
		})
	}
	return deliveries
}

// release takes a slot from a session.
func (l *loop) release(s *session, release *linkv1.Release) {
	delete(s.claimed, int(release.GetSlot()))
	l.dispatch.Release(s.id, int(release.GetSlot()))
}

// outcomes takes a batch of a session. What was handed back is settled at
// once; of the rest, failures count only from who has the delivery in hand.
func (l *loop) outcomes(s *session, batch *linkv1.OutcomeBatch) {
	for _, outcome := range batch.GetOutcomes() {
		delivery := deliveryOf(outcome)
		switch {
		case outcome.GetKind() == linkv1.Outcome_RETURNED:
			l.dispatch.Return(s.id, delivery)
		case outcome.GetKind() == linkv1.Outcome_DELIVERED || l.dispatch.Holds(s.id, delivery):
			if until := outcome.GetHoldUntilUnixMs(); until != 0 { // before it is durable: what is handed back is not sent again
				l.dispatch.Hold(delivery.Subscription, until)
			}
			l.pending.outcomes = append(l.pending.outcomes, reported{session: s, outcome: outcome})
		}
	}
	l.pending.outcomes = append(l.pending.outcomes, reported{session: s, batch: batch.GetNumber()})
}
