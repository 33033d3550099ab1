package cluster

// CertainShare returns for which share of the ttl the lease is still certain:
// just after a renewal three quarters, and less than half only when one was late.
// It is negative when the lease is in doubt.
func (m *Member) CertainShare() float64 {
	return float64(m.Deadline()-m.clock()) / float64(m.ttl)
}
