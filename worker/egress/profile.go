package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"sync"
	"time"
)

// Profile is how one endpoint is connected to, where that differs from the
// others. The zero value changes nothing. A Profile is used with one Client
// only, must not be changed once it is used, and must not be copied; it is
// safe for concurrent use.
type Profile struct {
	// ConnectTimeout bounds resolving the name and connecting; TLSTimeout the
	// TLS handshake. 0 means the Client's.
	ConnectTimeout time.Duration
	TLSTimeout     time.Duration
	// Certificate is shown to the endpoint if it asks for one (mTLS).
	Certificate *tls.Certificate
	// RootCAs are the only authorities trusted for the endpoint; nil means the
	// Client's.
	RootCAs *x509.CertPool

	once      sync.Once // guards the making of transport
	transport *http.Transport
}

// profileKey is what a request's context has its Profile under.
type profileKey struct{}

// WithProfile returns a context for requests to the endpoint of a Profile.
func WithProfile(ctx context.Context, p *Profile) context.Context {
	if p == nil {
		return ctx
	}
	return context.WithValue(ctx, profileKey{}, p)
}

// profileOf returns the Profile of a context, or nil.
func profileOf(ctx context.Context) *Profile {
	p, _ := ctx.Value(profileKey{}).(*Profile)
	return p
}

// timeouts returns the bounds of connecting and of the TLS handshake; 0 where
// they are the Client's.
func (p *Profile) timeouts() (connect, handshake time.Duration) {
	if p == nil {
		return 0, 0
	}
	return p.ConnectTimeout, p.TLSTimeout
}

// ownTransport reports whether connections of the endpoint must not be used
// for others, nor theirs for it.
func (p *Profile) ownTransport() bool { return p != nil && (p.Certificate != nil || p.RootCAs != nil) }

// transportOf returns what sends the requests of a Profile.
func (c *Client) transportOf(p *Profile) *http.Transport {
	if !p.ownTransport() {
		return c.transport
	}
	p.once.Do(func() { p.transport = c.newTransport(p) })
	return p.transport
}
