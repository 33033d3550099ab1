package worker

import (
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// partOf returns how many bytes of events each of so many partitions may have in
// hand, so that all together keep within a budget; most if that is less. It is
// at least 1: a leader with credit left may always send one event more.
func partOf(budget, most uint64, partitions int) uint64 {
	if partitions <= 0 {
		return most
	}
	return max(1, min(most, budget/uint64(partitions)))
}

// grant sets how many bytes of events the leader is to keep to: from now on, if
// it can be told, and else from the next session on. What is in hand stays there,
// whatever it is.
func (a *agent) grant(bytes uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.creditBytes = bytes
	a.postCredit()
}

// postCredit tells the leader what it is granted, if that has changed and it
// listens. Called with mu held.
func (a *agent) postCredit() {
	s := a.session
	if s == nil || !s.takesCredit || s.granted == a.creditBytes {
		return
	}
	s.granted = a.creditBytes
	a.post(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Credit{Credit: &linkv1.Credit{
		CreditCount: a.link.creditCount, CreditBytes: a.creditBytes,
	}}})
}

// mostBytes returns how many bytes the leader may believe that it is granted.
// Called with mu held.
func (a *agent) mostBytes() uint64 {
	if a.session == nil {
		return a.creditBytes
	}
	return max(a.creditBytes, a.session.granted)
}
