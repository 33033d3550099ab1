package lead

import (
	"context"
	"time"

	tlscredentials "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// certificateEnds returns when the certificate of who makes a call does.
func certificateEnds(ctx context.Context) time.Time {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return time.Time{}
	}
	if info, ok := from.AuthInfo.(tlscredentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
		return info.State.PeerCertificates[0].NotAfter
	}
	return time.Time{}
}

// CertificatesEnd returns when the certificates of the workers that are
// attached do, by their ids.
func (l *Leader) CertificatesEnd(ctx context.Context) (map[string]time.Time, error) {
	ends := make(map[string]time.Time)
	err := l.call(ctx, func(loop *loop) {
		for _, s := range loop.sessions {
			if !s.ends.IsZero() {
				ends[s.worker.ID] = s.ends
			}
		}
	})
	return ends, err
}
