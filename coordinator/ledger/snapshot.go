package ledger

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// ErrSnapshot says that the bytes are not an intact snapshot.
var ErrSnapshot = errors.New("snapshot is damaged")

// Snapshot returns the whole state as bytes that Restore takes. Equal states
// give equal bytes.
func (l *Ledger) Snapshot() ([]byte, error) {
	data, err := l.encode()
	if err != nil {
		return nil, err
	}
	return seal(data), nil
}

// StateHash returns the SHA-256 of the whole state. Two ledgers that folded
// the same log have the same.
func (l *Ledger) StateHash() ([]byte, error) {
	data, err := l.encode()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	return sum[:], nil
}

// Fields of a Snapshot. It is written and read piece by piece: of what many
// subscriptions are owed only one copy is in memory, and that encoded.
const (
	snapshotSubscriptions protowire.Number = 10 // last of all but the hash
	snapshotHash          protowire.Number = 15 // last of all
	sealSize                               = 2 + HashSize
)

// seal adds the hash of what is there.
func seal(data []byte) []byte { return append(data, sealOf(sha256.Sum256(data))...) }

func sealOf(sum [HashSize]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, snapshotHash, protowire.BytesType), sum[:])
}

// unseal returns what was sealed.
func unseal(data []byte) ([]byte, error) {
	body := data[:max(0, len(data)-sealSize)]
	if sum := sha256.Sum256(body); !bytes.Equal(data[len(body):], sealOf(sum)) {
		return nil, fmt.Errorf("%w: it does not have the hash %x", ErrSnapshot, sum)
	}
	return body, nil
}

// Restore returns the ledger that a snapshot was made of. ErrSnapshot if it is
// not intact, ErrVersion if a newer member made it.
func Restore(data []byte) (*Ledger, error) {
	body, err := unseal(data)
	if err != nil {
		return nil, fmt.Errorf("restoring ledger: %w", err)
	}
	l, err := decode(body)
	if err != nil {
		return nil, fmt.Errorf("restoring ledger: %w", err)
	}
	return l, nil
}

// encode encodes all but the hash.
func (l *Ledger) encode() ([]byte, error) {
	options := proto.MarshalOptions{Deterministic: true}
	data, err := options.MarshalAppend(make([]byte, 0, l.encoded+l.encoded/16+sealSize), l.head())
	if err != nil {
		return nil, fmt.Errorf("encoding snapshot: %w", err)
	}
	options.UseCachedSize = true // that proto.Size has computed
	state := new(linkv1.SubscriptionState)
	for _, s := range l.Subscriptions() {
		s.encode(state)
		data = protowire.AppendTag(data, snapshotSubscriptions, protowire.BytesType)
		data = protowire.AppendVarint(data, uint64(proto.Size(state))) //nolint:gosec // not negative
		if data, err = options.MarshalAppend(data, state); err != nil {
			return nil, fmt.Errorf("encoding subscription %d: %w", s.Number, err)
		}
	}
	l.encoded = len(data)
	return data, nil
}

// head is a snapshot without its subscriptions.
func (l *Ledger) head() *linkv1.Snapshot {
	snapshot := &linkv1.Snapshot{
		Sequence:         l.sequence,
		RecordHash:       l.hash,
		Epoch:            l.epoch,
		TimeUnixMs:       l.time,
		FoldVersion:      l.version,
		Limits:           l.limits,
		NextSubscription: uint64(l.nextNumber),
		LastEvents:       l.lastEvents,
		KeptFrom:         l.keptFrom,
	}
	for _, id := range l.Tenants() {
		snapshot.Tenants = append(snapshot.Tenants, &linkv1.TenantChange{Id: string(id), Put: l.Tenant(id)})
	}
	for _, id := range l.Replays() {
		snapshot.Replays = append(snapshot.Replays, &linkv1.ReplayChange{Id: id, Put: l.replays[id]})
	}
	for _, id := range l.Alerts() {
		snapshot.Alerts = append(snapshot.Alerts, &linkv1.AlertChange{Id: id, Put: l.alerts[id]})
	}
	for _, m := range l.timeline.marks {
		snapshot.MarkSequences = append(snapshot.MarkSequences, m.sequence)
		snapshot.MarkTimesUnixMs = append(snapshot.MarkTimesUnixMs, m.time)
	}
	snapshot.WindowKeys = make([]byte, 0, l.window.size*len(eventKey{}))
	snapshot.WindowTimesUnixMs = make([]int64, 0, l.window.size)
	for i := range l.window.size {
		entry := l.window.at(i)
		snapshot.WindowKeys = append(snapshot.WindowKeys, entry.key[:]...)
		snapshot.WindowTimesUnixMs = append(snapshot.WindowTimesUnixMs, entry.time)
	}
	return snapshot
}

// encode sets a message to the state of the subscription. Its columns are used
// again: there are many subscriptions.
func (s *Subscription) encode(to *linkv1.SubscriptionState) {
	sequences, indexes, attempts := to.GetSequences()[:0], to.GetIndexes()[:0], to.GetAttempts()[:0]
	charged, next, since := to.GetCharged()[:0], to.GetNextTimesUnixMs()[:0], to.GetSinceUnixMs()[:0]
	for _, o := range s.owed {
		sequences, indexes = append(sequences, o.position.Sequence), append(indexes, o.position.Index)
		attempts, charged = append(attempts, o.attempts), append(charged, o.charged)
		next, since = append(next, o.next), append(since, o.since)
	}
	*to = linkv1.SubscriptionState{
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
		Sequences:           sequences,
		Indexes:             indexes,
		Attempts:            attempts,
		Charged:             charged,
		NextTimesUnixMs:     next,
		SinceUnixMs:         since,
	}
	for _, e := range s.eras {
		to.Eras = append(to.Eras, &linkv1.Era{UntilSequence: e.until, EventTypes: e.patterns})
	}
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

// decode is the inverse of encode.
func decode(body []byte) (*Ledger, error) {
	head, subscriptions, err := cutHead(body)
	if err != nil {
		return nil, err
	}
	snapshot := new(linkv1.Snapshot)
	if err := proto.Unmarshal(head, snapshot); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	if snapshot.GetFoldVersion() > FoldVersion {
		return nil, fmt.Errorf("%w: %d", ErrVersion, snapshot.GetFoldVersion())
	}
	l := New()
	l.encoded = len(body)
	l.decodeHead(snapshot)
	for len(subscriptions) > 0 {
		field, _, n := protowire.ConsumeTag(subscriptions)
		if n < 0 || field != snapshotSubscriptions {
			return nil, fmt.Errorf("%w: field %d is among the subscriptions", ErrSnapshot, field)
		}
		encoded, size := protowire.ConsumeBytes(subscriptions[n:])
		if size < 0 {
			return nil, fmt.Errorf("%w: %w", ErrSnapshot, protowire.ParseError(size))
		}
		state := new(linkv1.SubscriptionState)
		if err := proto.Unmarshal(encoded, state); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
		}
		l.decodeSubscription(state)
		subscriptions = subscriptions[n+size:]
	}
	return l, nil
}

// cutHead cuts a snapshot where its subscriptions begin.
func cutHead(body []byte) (head, subscriptions []byte, err error) {
	for at := 0; at < len(body); {
		field, _, n := protowire.ConsumeField(body[at:])
		if n < 0 {
			return nil, nil, fmt.Errorf("%w: %w", ErrSnapshot, protowire.ParseError(n))
		}
		if field == snapshotSubscriptions {
			return body[:at], body[at:], nil
		}
		at += n
	}
	return body, nil, nil
}

func (l *Ledger) decodeHead(snapshot *linkv1.Snapshot) {
	l.sequence, l.hash = snapshot.GetSequence(), snapshot.GetRecordHash()
	l.epoch, l.time = snapshot.GetEpoch(), snapshot.GetTimeUnixMs()
	l.version, l.limits = snapshot.GetFoldVersion(), resolve(snapshot.GetLimits())
	l.nextNumber, l.lastEvents = Number(snapshot.GetNextSubscription()), snapshot.GetLastEvents()
	l.keptFrom = snapshot.GetKeptFrom()
	for _, t := range snapshot.GetTenants() {
		l.foldTenant(t)
	}
	for _, change := range snapshot.GetReplays() {
		l.replays[change.GetId()] = change.GetPut()
	}
	for _, change := range snapshot.GetAlerts() {
		l.foldAlert(change)
	}
	for i, sequence := range snapshot.GetMarkSequences() {
		l.timeline.marks = append(l.timeline.marks, mark{sequence, snapshot.GetMarkTimesUnixMs()[i]})
	}
	l.window.reserve(len(snapshot.GetWindowTimesUnixMs()))
	for i, time := range snapshot.GetWindowTimesUnixMs() {
		l.window.add(eventKey(snapshot.GetWindowKeys()[i*len(eventKey{}):]), time)
	}
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
	s.owed = make([]owed, 0, len(state.GetSequences()))
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
	l.refile(s)
	if since, ok := s.waitsSince(); ok {
		l.waiting.note(s, since)
	}
}
