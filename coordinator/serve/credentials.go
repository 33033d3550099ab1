package serve

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/internal/signing"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Limits of credentials. They are part of the API: see
// subscription_service.proto.
const (
	maxHeaders     = 20
	maxHeaderName  = 128
	maxHeaderValue = 4096
	maxUserName    = 256
	maxPassword    = 1024
	maxToken       = 4096
	maxScopes      = 20
	maxScope       = 256
	maxParameters  = 10
	maxParameter   = 1024
	maxPEM         = 32 << 10
)

// masked stands for a secret that is not shown.
const masked = "***"

// credentialsOf returns the fields of a subscription with secrets in them.
func credentialsOf(sub *fanfarev1.Subscription) *linkv1.Credentials {
	return &linkv1.Credentials{Headers: sub.GetHeaders(), Authentication: sub.GetAuthentication(), Tls: sub.GetTls()}
}

// keepCredentials encrypts the credentials of a stored subscription that has
// them in the clear, and masks them there.
func (s *Server) keepCredentials(stored *linkv1.StoredSubscription) error {
	sub := stored.GetSubscription()
	stored.SealedCredentials = nil
	if credentials := credentialsOf(sub); proto.Size(credentials) > 0 {
		encoded, err := proto.Marshal(credentials)
		if err != nil {
			return fmt.Errorf("encoding credentials: %w", err)
		}
		stored.SealedCredentials = s.Secrets.Seal(string(encoded))
	}
	visible := proto.CloneOf(sub)
	mask(visible)
	stored.Subscription = visible
	return nil
}

// mask replaces the secrets in a subscription.
func mask(sub *fanfarev1.Subscription) {
	for name := range sub.GetHeaders() {
		sub.Headers[name] = masked
	}
	if basic := sub.GetAuthentication().GetBasic(); basic != nil {
		basic.Password = masked
	}
	if bearer := sub.GetAuthentication().GetBearer(); bearer != nil {
		bearer.Token = masked
	}
	if oauth := sub.GetAuthentication().GetOauth2(); oauth != nil {
		oauth.ClientSecret = masked
		for name := range oauth.GetParameters() {
			oauth.Parameters[name] = masked
		}
	}
	if sub.GetTls().GetClientKey() != "" {
		sub.Tls.ClientKey = masked
	}
}

// unmask puts the secrets of a stored subscription into a copy of it.
func (s *Server) unmask(stored *linkv1.StoredSubscription) error {
	if len(stored.GetSealedCredentials()) == 0 {
		return nil
	}
	encoded, err := s.Secrets.Open(stored.GetSealedCredentials())
	if err != nil {
		return err
	}
	credentials := new(linkv1.Credentials)
	if err := proto.Unmarshal([]byte(encoded), credentials); err != nil {
		return fmt.Errorf("decoding credentials: %w", err)
	}
	sub := stored.GetSubscription()
	sub.Headers, sub.Authentication, sub.Tls = credentials.GetHeaders(), credentials.GetAuthentication(), credentials.GetTls()
	return nil
}

// fillMasked replaces each *** in credentials that a client gave by what the
// subscription has there.
func fillMasked(given, have *fanfarev1.Subscription) {
	fill := func(to *string, from string) {
		if *to == masked {
			*to = from
		}
	}
	for name, value := range given.GetHeaders() {
		if value == masked {
			given.Headers[name] = have.GetHeaders()[name]
		}
	}
	if basic := given.GetAuthentication().GetBasic(); basic != nil {
		fill(&basic.Password, have.GetAuthentication().GetBasic().GetPassword())
	}
	if bearer := given.GetAuthentication().GetBearer(); bearer != nil {
		fill(&bearer.Token, have.GetAuthentication().GetBearer().GetToken())
	}
	if oauth := given.GetAuthentication().GetOauth2(); oauth != nil {
		before := have.GetAuthentication().GetOauth2()
		if before.GetTokenUrl() == oauth.GetTokenUrl() { // a secret goes nowhere else unasked
			fill(&oauth.ClientSecret, before.GetClientSecret())
		}
		for name, value := range oauth.GetParameters() {
			if value == masked && before.GetTokenUrl() == oauth.GetTokenUrl() {
				oauth.Parameters[name] = before.GetParameters()[name]
			}
		}
	}
	if given.GetTls() != nil {
		fill(&given.Tls.ClientKey, have.GetTls().GetClientKey())
	}
}

// checkMove refuses an update that would show the credentials of a subscription
// to another host than they were given for, unasked. What TLS has of them is
// none: a key never leaves, and a certificate is no secret.
func (u update) checkMove(sub *fanfarev1.Subscription) error {
	if !u.paths["url"] || u.keepCredentials || originOf(u.given.GetUrl()) == originOf(sub.GetUrl()) {
		return nil
	}
	var left []string
	if keeps := !u.paths["headers"] || slices.Contains(slices.Collect(maps.Values(u.given.GetHeaders())), masked); keeps && len(sub.GetHeaders()) > 0 {
		left = append(left, "headers")
	}
	if keeps := !u.paths["authentication"] || hasMasked(u.given.GetAuthentication()); keeps && sub.GetAuthentication() != nil {
		left = append(left, "authentication")
	}
	if len(left) == 0 {
		return nil
	}
	return &Error{
		codes.FailedPrecondition, "url",
		fmt.Sprintf("leads to another host, which would be shown the %s given for %s; give it anew and not as %s, take it away, or set keep_credentials",
			strings.Join(left, " and "), originOf(sub.GetUrl()), masked),
	}
}

// hasMasked reports whether something in it stands for what is kept.
func hasMasked(a *fanfarev1.Authentication) bool {
	return slices.Contains([]string{
		a.GetBasic().GetPassword(), a.GetBearer().GetToken(), a.GetOauth2().GetClientSecret(),
	}, masked) || slices.Contains(slices.Collect(maps.Values(a.GetOauth2().GetParameters())), masked)
}

// originOf returns the scheme, host and port of a URL (RFC 6454), and of what
// is none all of it.
func originOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return raw
	}
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// checkCredentials says what is wrong with the credentials of a subscription.
// Errors quote no values.
func (s *Server) checkCredentials(sub *fanfarev1.Subscription) error {
	if err := checkHeaders(sub); err != nil {
		return err
	}
	if err := s.checkAuthentication(sub.GetAuthentication()); err != nil {
		return err
	}
	return checkTLS(sub.GetTls())
}

func checkHeaders(sub *fanfarev1.Subscription) error {
	if len(sub.GetHeaders()) > maxHeaders {
		return invalid("headers", "has %d headers; at most %d are allowed", len(sub.GetHeaders()), maxHeaders)
	}
	scheme, err := signing.Scheme(sub.GetSigning())
	if err != nil {
		return checkSigning(sub.GetSigning())
	}
	seen := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(sub.GetHeaders())) {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case name == "" || len(name) > maxHeaderName || strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-_.~!#$%&'*+^`|") != "":
			return invalid("headers", "has the name %q, which HTTP does not allow", name)
		case reservedHeader(canonical),
			slices.ContainsFunc(scheme.Headers(), func(own string) bool { return strings.EqualFold(own, name) }),
			canonical == "Authorization" && sub.GetAuthentication() != nil:
			return invalid("headers", "has %q, which is set by the sender itself", name)
		case seen[canonical]:
			return invalid("headers", "has %q twice", canonical)
		}
		seen[canonical] = true
		if err := checkSecretText("headers["+name+"]", sub.GetHeaders()[name], maxHeaderValue); err != nil {
			return err
		}
	}
	return nil
}

// reservedHeader reports whether a header belongs to HTTP, to the way of a
// connection, to signatures, to payload modes or to tracing.
func reservedHeader(canonical string) bool {
	for _, prefix := range []string{"Webhook-", "Ce-", "Proxy-", "Sec-"} {
		if strings.HasPrefix(canonical, prefix) {
			return true
		}
	}
	switch canonical {
	case "Accept-Encoding", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Date", "Expect", "Host", "Http2-Settings",
		"Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Via", "Traceparent", "Tracestate", "User-Agent",
		"Stripe-Signature", "X-Hub-Signature", "X-Hub-Signature-256", "X-Hub-Signature-256-Previous":
		return true
	}
	return false
}

// checkSecretText wants what a header's value may be, and never quotes it.
func checkSecretText(field, value string, most int) error {
	switch {
	case value == "":
		return invalid(field, "is empty")
	case value == masked:
		return invalid(field, "is %s, which stands for a value that is kept, and there is none", masked)
	case len(value) > most:
		return invalid(field, "has %d bytes; at most %d are allowed", len(value), most)
	case strings.TrimSpace(value) != value || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }):
		return invalid(field, "has other than visible ASCII, or a space at an end")
	}
	return nil
}

func (s *Server) checkAuthentication(a *fanfarev1.Authentication) error {
	const field = "authentication."
	switch {
	case a == nil:
		return nil
	case a.GetBasic() != nil:
		basic := a.GetBasic()
		if err := checkText(field+"basic.username", basic.GetUsername(), maxUserName); err != nil {
			return err
		}
		if strings.Contains(basic.GetUsername(), ":") {
			return invalid(field+"basic.username", "has a colon, which ends it (RFC 7617)")
		}
		return checkSecretText(field+"basic.password", basic.GetPassword(), maxPassword)
	case a.GetBearer() != nil:
		if strings.Contains(a.GetBearer().GetToken(), " ") {
			return invalid(field+"bearer.token", "has a space in it")
		}
		return checkSecretText(field+"bearer.token", a.GetBearer().GetToken(), maxToken)
	case a.GetOauth2() != nil:
		return within(strings.TrimSuffix(field, ".")+".oauth2", s.checkOAuth(a.GetOauth2()))
	}
	return invalid("authentication", "has no method; expected basic, bearer or oauth2")
}

func (s *Server) checkOAuth(o *fanfarev1.Oauth2Authentication) error {
	if err := s.URLs.CheckURL(o.GetTokenUrl()); err != nil {
		return invalid("token_url", "is not allowed: %s", err.Error())
	}
	if o.GetClientId() == "" {
		return invalid("client_id", "is empty")
	}
	if err := checkText("client_id", o.GetClientId(), maxUserName); err != nil {
		return err
	}
	if err := checkSecretText("client_secret", o.GetClientSecret(), maxPassword); err != nil {
		return err
	}
	if len(o.GetScopes()) > maxScopes || len(o.GetParameters()) > maxParameters {
		return invalid("scopes", "are more than %d, or parameters more than %d", maxScopes, maxParameters)
	}
	for i, scope := range o.GetScopes() {
		if err := checkSecretText(fmt.Sprintf("scopes[%d]", i), scope, maxScope); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.GetParameters())) {
		switch name {
		case "", "grant_type", "scope", "client_id", "client_secret":
			return invalid("parameters", "has the name %q, which is set by the sender itself", name)
		}
		if err := checkSecretText("parameters["+name+"]", o.GetParameters()[name], maxParameter); err != nil {
			return err
		}
	}
	return nil
}

func checkTLS(t *fanfarev1.TlsOptions) error {
	for field, text := range map[string]string{
		"tls.client_certificate": t.GetClientCertificate(), "tls.client_key": t.GetClientKey(), "tls.ca_certificates": t.GetCaCertificates(),
	} {
		if len(text) > maxPEM {
			return invalid(field, "has %d bytes; at most %d are allowed", len(text), maxPEM)
		}
	}
	if t.GetClientCertificate() != "" || t.GetClientKey() != "" {
		if _, err := tls.X509KeyPair([]byte(t.GetClientCertificate()), []byte(t.GetClientKey())); err != nil {
			return invalid("tls.client_certificate", "and tls.client_key are no pair in PEM: %s", err.Error())
		}
	}
	if t.GetCaCertificates() != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(t.GetCaCertificates())) {
		return invalid("tls.ca_certificates", "has no certificate in PEM")
	}
	return nil
}
