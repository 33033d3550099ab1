package ledger

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// ErrSnapshot says that the bytes are not an intact snapshot.
var ErrSnapshot = errors.New("snapshot is damaged")

// Snapshot returns the whole state as bytes that Restore takes. Equal states
// give equal bytes.
func (l *Ledger) Snapshot() ([]byte, error) {
	snapshot := l.encode()
	hash, err := hashOf(snapshot)
	if err != nil {
		return nil, err
	}
	snapshot.Hash = hash
	return marshal(snapshot)
}

// StateHash returns the SHA-256 of the whole state. Two ledgers that folded
// the same log have the same.
func (l *Ledger) StateHash() ([]byte, error) {
	return hashOf(l.encode())
}

// Restore returns the ledger that a snapshot was made of. ErrSnapshot if it is
// not intact, ErrVersion if a newer member made it.
func Restore(data []byte) (*Ledger, error) {
	snapshot := new(linkv1.Snapshot)
	if err := proto.Unmarshal(data, snapshot); err != nil {
		return nil, fmt.Errorf("restoring ledger: %w: %w", ErrSnapshot, err)
	}
	want := snapshot.GetHash()
	snapshot.Hash = nil
	have, err := hashOf(snapshot)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(have, want) {
		return nil, fmt.Errorf("restoring ledger: %w: hash is %x, not %x", ErrSnapshot, have, want)
	}
	if snapshot.GetFoldVersion() > FoldVersion {
		return nil, fmt.Errorf("restoring ledger: %w: %d", ErrVersion, snapshot.GetFoldVersion())
	}
	return decode(snapshot), nil
}

func hashOf(snapshot *linkv1.Snapshot) ([]byte, error) {
	data, err := marshal(snapshot)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	return sum[:], nil
}

func marshal(snapshot *linkv1.Snapshot) ([]byte, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(snapshot)
	if err != nil {
		return nil, fmt.Errorf("encoding snapshot: %w", err)
	}
	return data, nil
}

func (l *Ledger) encode() *linkv1.Snapshot {
	snapshot := &linkv1.Snapshot{
		Sequence:         l.sequence,
		RecordHash:       l.hash,
		Epoch:            l.epoch,
		TimeUnixMs:       l.time,
		FoldVersion:      l.version,
		Limits:           l.limits,
		NextSubscription: uint64(l.nextNumber),
		LastEvents:       l.lastEvents,
	}
	for _, id := range l.Tenants() {
		snapshot.Tenants = append(snapshot.Tenants, &linkv1.TenantChange{Id: string(id), Put: l.Tenant(id)})
	}
	for _, s := range l.Subscriptions() {
		snapshot.Subscriptions = append(snapshot.Subscriptions, s.encode())
	}
	for _, id := range l.Replays() {
		snapshot.Replays = append(snapshot.Replays, &linkv1.ReplayChange{Id: id, Put: l.replays[id]})
	}
	for _, m := range l.timeline.marks {
		snapshot.MarkSequences = append(snapshot.MarkSequences, m.sequence)
		snapshot.MarkTimesUnixMs = append(snapshot.MarkTimesUnixMs, m.time)
	}
	for i := range l.window.size {
		entry := l.window.at(i)
		snapshot.WindowKeys = append(snapshot.WindowKeys, entry.key[:]...)
		snapshot.WindowTimesUnixMs = append(snapshot.WindowTimesUnixMs, entry.time)
	}
	return snapshot
}

func (s *Subscription) encode() *linkv1.SubscriptionState {
	state := &linkv1.SubscriptionState{
		Number:              uint64(s.Number),
		Stored:              s.Stored,
		Behind:              s.behind,
		CursorSequence:      s.cursor.Sequence,
		CursorIndex:         s.cursor.Index,
		ConsecutiveFailures: s.failures,
		FailingSinceUnixMs:  s.failingSince,
		Mode:                s.mode,
		ModeReason:          s.modeReason,
		ModeSinceUnixMs:     s.modeSince,
		Breaker:             s.breaker.encode(),
		Lanes:               s.laneColumn(),
		HoldUntilUnixMs:     s.hold,
	}
	for _, e := range s.eras {
		state.Eras = append(state.Eras, &linkv1.Era{UntilSequence: e.until, EventTypes: e.patterns})
	}
	for _, o := range s.owed {
		state.Sequences = append(state.Sequences, o.position.Sequence)
		state.Indexes = append(state.Indexes, o.position.Index)
		state.Attempts = append(state.Attempts, o.attempts)
		state.Charged = append(state.Charged, o.charged)
		state.NextTimesUnixMs = append(state.NextTimesUnixMs, o.next)
		state.SinceUnixMs = append(state.SinceUnixMs, o.since)
	}
	return state
}

func (b *breaker) encode() *linkv1.Breaker {
	if b.failures == 0 {
		return nil
	}
	state := &linkv1.Breaker{Failures: b.failures, Open: b.open, Probes: b.probes, NextProbeUnixMs: b.next}
	for _, at := range b.events {
		state.Sequences = append(state.Sequences, at.Sequence)
		state.Indexes = append(state.Indexes, at.Index)
	}
	return state
}

func decodeBreaker(state *linkv1.Breaker) breaker {
	b := breaker{failures: state.GetFailures(), open: state.GetOpen(), probes: state.GetProbes(), next: state.GetNextProbeUnixMs()}
	for i, sequence := range state.GetSequences() {
		b.events = append(b.events, Position{sequence, state.GetIndexes()[i]})
	}
	return b
}

// decode is the inverse of encode, for a snapshot whose hash was right.
func decode(snapshot *linkv1.Snapshot) *Ledger {
	l := New()
	l.sequence, l.hash = snapshot.GetSequence(), snapshot.GetRecordHash()
	l.epoch, l.time = snapshot.GetEpoch(), snapshot.GetTimeUnixMs()
	l.version, l.limits = snapshot.GetFoldVersion(), resolve(snapshot.GetLimits())
	l.nextNumber, l.lastEvents = Number(snapshot.GetNextSubscription()), snapshot.GetLastEvents()
	for _, t := range snapshot.GetTenants() {
		l.foldTenant(t)
	}
	for _, state := range snapshot.GetSubscriptions() {
		l.decodeSubscription(state)
	}
	for _, change := range snapshot.GetReplays() {
		l.replays[change.GetId()] = change.GetPut()
	}
	for i, sequence := range snapshot.GetMarkSequences() {
		l.timeline.marks = append(l.timeline.marks, mark{sequence, snapshot.GetMarkTimesUnixMs()[i]})
	}
	for i, time := range snapshot.GetWindowTimesUnixMs() {
		l.window.add(eventKey(snapshot.GetWindowKeys()[i*len(eventKey{}):]), time)
	}
	return l
}

func (l *Ledger) decodeSubscription(state *linkv1.SubscriptionState) {
	s := &Subscription{
		Number:       Number(state.GetNumber()),
		Tenant:       TenantID(state.GetStored().GetTenant()),
		Stored:       state.GetStored(),
		behind:       state.GetBehind(),
		cursor:       Position{state.GetCursorSequence(), state.GetCursorIndex()},
		failures:     state.GetConsecutiveFailures(),
		failingSince: state.GetFailingSinceUnixMs(),
		breaker:      decodeBreaker(state.GetBreaker()),
		hold:         state.GetHoldUntilUnixMs(),
		mode:         state.GetMode(),
		modeReason:   state.GetModeReason(),
		modeSince:    state.GetModeSinceUnixMs(),
	}
	for _, e := range state.GetEras() {
		s.eras = append(s.eras, era{e.GetUntilSequence(), e.GetEventTypes()})
	}
	for i, sequence := range state.GetSequences() {
		s.owed = append(s.owed, owed{
			position: Position{sequence, state.GetIndexes()[i]},
			attempts: state.GetAttempts()[i],
			charged:  state.GetCharged()[i],
			next:     state.GetNextTimesUnixMs()[i],
			since:    state.GetSinceUnixMs()[i],
		})
		if i < len(state.GetLanes()) {
			s.setLane(s.owed[i].position, Lane(state.GetLanes()[i]))
		}
	}
	l.subscriptions[s.Number] = s
	l.outstanding += len(s.owed)
	t := l.tenant(s.Tenant)
	t.byID[s.ID()] = s.Number
	insert(&t.all, s.Number)
	if s.behind {
		l.behind[s.Number] = s
	} else {
		t.index.add(s.Number, s.patterns())
	}
}
