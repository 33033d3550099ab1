package worker

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

// minMasked is how long a secret must be to be masked in what comes back: a
// shorter one is found in any text by chance.
const minMasked = 6

// maskText takes the place of a secret.
const maskText = "***"

// credentials are what an endpoint is shown beside the signature. They never
// change, but for the token in tokens.
type credentials struct {
	header  http.Header     // static ones, authorization included unless it is a token
	tokens  *tokens         // nil: no token is needed
	profile *egress.Profile // nil: nothing is special about the connection
	secrets [][]byte        // what must not be seen in texts, longest first
}

// newCredentials reads the credentials and the connection's settings of an
// endpoint. Errors quote no secret.
func newCredentials(e *linkv1.Endpoint) (*credentials, error) {
	c := &credentials{header: make(http.Header)}
	for name, value := range e.GetCredentials().GetHeaders() {
		c.header.Set(name, value)
		c.hide(value)
	}
	switch auth := e.GetCredentials().GetAuthentication(); {
	case auth.GetBasic() != nil:
		pair := auth.GetBasic().GetUsername() + ":" + auth.GetBasic().GetPassword()
		encoded := base64.StdEncoding.EncodeToString([]byte(pair))
		c.header.Set("Authorization", "Basic "+encoded)
		c.hide(encoded, auth.GetBasic().GetPassword())
	case auth.GetBearer() != nil:
		c.header.Set("Authorization", "Bearer "+auth.GetBearer().GetToken())
		c.hide(auth.GetBearer().GetToken())
	case auth.GetOauth2() != nil:
		c.tokens = newTokens(auth.GetOauth2())
		c.hide(auth.GetOauth2().GetClientSecret())
		for _, value := range auth.GetOauth2().GetParameters() {
			c.hide(value)
		}
	case auth != nil:
		return nil, errors.New("unknown method of authentication")
	}
	var err error
	c.profile, err = newProfile(e.GetSubscription(), e.GetCredentials().GetTls())
	return c, err
}

// newProfile reads how the endpoint is connected to; nil if as all others.
func newProfile(s *fanfarev1.Subscription, t *fanfarev1.TlsOptions) (*egress.Profile, error) {
	profile := &egress.Profile{
		ConnectTimeout: max(s.GetConnectTimeout().AsDuration(), 0),
		TLSTimeout:     max(s.GetTlsTimeout().AsDuration(), 0),
	}
	if t.GetClientCertificate() != "" {
		pair, err := tls.X509KeyPair([]byte(t.GetClientCertificate()), []byte(t.GetClientKey()))
		if err != nil {
			return nil, fmt.Errorf("reading client certificate: %w", err)
		}
		profile.Certificate = &pair
	}
	if t.GetCaCertificates() != "" {
		profile.RootCAs = x509.NewCertPool()
		if !profile.RootCAs.AppendCertsFromPEM([]byte(t.GetCaCertificates())) {
			return nil, errors.New("reading CA certificates: there is none")
		}
	}
	if profile.ConnectTimeout == 0 && profile.TLSTimeout == 0 && profile.Certificate == nil && profile.RootCAs == nil {
		return nil, nil //nolint:nilnil // nothing is special
	}
	return profile, nil
}

// hide notes secrets, in the forms in which they may come back.
func (c *credentials) hide(secrets ...string) {
	for _, secret := range secrets {
		for _, form := range []string{secret, url.QueryEscape(secret)} {
			if len(form) >= minMasked && !slices.ContainsFunc(c.secrets, func(b []byte) bool { return string(b) == form }) {
				c.secrets = append(c.secrets, []byte(form))
			}
		}
	}
	slices.SortFunc(c.secrets, func(a, b []byte) int { return len(b) - len(a) })
}

// isEmpty reports whether there is nothing to show.
func (c *credentials) isEmpty() bool { return len(c.header) == 0 && c.tokens == nil }

// mask replaces the secrets in a text that came from elsewhere. An endpoint
// that shows what it was sent would else put them into the history.
func (c *credentials) mask(text []byte) []byte {
	for _, secret := range c.secrets {
		text = bytes.ReplaceAll(text, secret, []byte(maskText))
	}
	if c.tokens != nil {
		if token := c.tokens.current(); len(token) >= minMasked {
			text = bytes.ReplaceAll(text, []byte(token), []byte(maskText))
		}
	}
	return text
}

// maskAnswer is mask for all texts of an answer.
func (c *credentials) maskAnswer(met *answer) {
	if len(c.secrets) == 0 && c.tokens == nil {
		return
	}
	met.body = c.mask(met.body)
	if met.err == nil {
		return
	}
	if text := met.err.Error(); string(c.mask([]byte(text))) != text {
		met.err = errors.New(string(c.mask([]byte(text))))
	}
}

// authorize sets what the endpoint is to be shown, and reports whether it is a
// token that was kept, so that a newer one may do if it is refused.
func (c *credentials) authorize(ctx context.Context, client Doer, userAgent string, header http.Header) (kept bool, err error) {
	maps.Copy(header, c.header)
	if c.tokens == nil {
		return false, nil
	}
	token, kept, err := c.tokens.get(ctx, tokenTransport{client, userAgent})
	if err != nil {
		return false, err
	}
	header.Set("Authorization", "Bearer "+token)
	return kept, nil
}
