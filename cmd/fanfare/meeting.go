package main

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// meetingFlags say how an endpoint is met: what it is shown beside the
// signature, and how it is connected to.
type meetingFlags struct {
	headers                     pairsFlag
	username, password, token   string
	oauth                       fanfarev1.Oauth2Authentication
	parameters                  pairsFlag
	certificate, key, authority fileFlag
	connectTimeout, tlsTimeout  spanFlag
	compression, verification   string
	omitTrace, noAuthentication bool
	handshake                   bool
	handshakeRate               uint32
}

func (f *meetingFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Var(&f.headers, "header", "a header that every request has, as in 'X-Api-Key: abc'; may be given several times")
	flags.StringVar(&f.username, "basic-user", "", "user name for basic authentication")
	flags.StringVar(&f.password, "basic-password", "", "its password")
	flags.StringVar(&f.token, "bearer-token", "", "token for bearer authentication")
	flags.StringVar(&f.oauth.TokenUrl, "oauth2-token-url", "", "where OAuth2 tokens come from, by client credentials")
	flags.StringVar(&f.oauth.ClientId, "oauth2-client-id", "", "the OAuth2 client")
	flags.StringVar(&f.oauth.ClientSecret, "oauth2-client-secret", "", "its secret")
	flags.StringSliceVar(&f.oauth.Scopes, "oauth2-scopes", nil, "the scopes asked for")
	flags.Var(&f.parameters, "oauth2-parameter", "a further parameter, as in 'audience: example'; may be given several times")
	flags.BoolVar(&f.noAuthentication, "no-authentication", false, "take the authentication away")
	flags.Var(&f.certificate, "tls-client-certificate", "file with the certificate that is shown to the endpoint (mTLS), in PEM")
	flags.Var(&f.key, "tls-client-key", "file with its private key")
	flags.Var(&f.authority, "tls-ca", "file with the only authorities trusted for the endpoint, in PEM")
	flags.Var(&f.connectTimeout, "connect-timeout", "how long resolving and connecting may take (default 10s)")
	flags.Var(&f.tlsTimeout, "tls-timeout", "how long the TLS handshake may take (default 10s)")
	flags.StringVar(&f.compression, "compression", "", "gzip, or nothing (default nothing)")
	flags.StringVar(&f.verification, "verification", "",
		"what the endpoint must do first: challenge (echo it), ping (answer 2xx), or none (default what the tenant asks for)")
	complete(cmd, "verification", "challenge", "ping", "none")
	flags.BoolVar(&f.handshake, "handshake", false,
		"ask the endpoint for its consent first, by the CloudEvents abuse protection (OPTIONS), and keep to the rate it allows")
	flags.Uint32Var(&f.handshakeRate, "handshake-rate", 0, "requests a minute that it is asked for; implies --handshake (default none)")
	flags.BoolVar(&f.omitTrace, "omit-trace-context", false, "do not pass on traceparent and tracestate")
	complete(cmd, "compression", "gzip")
}

// meetingField returns the field of Subscription that one of the flags sets;
// empty if it is none of them.
func meetingField(flag string) string {
	switch {
	case flag == "header":
		return "headers"
	case strings.HasPrefix(flag, "basic-"), strings.HasPrefix(flag, "oauth2-"), flag == "bearer-token", flag == "no-authentication":
		return "authentication"
	case flag == "connect-timeout", flag == "tls-timeout", flag == "compression", flag == "omit-trace-context", flag == "verification":
		return strings.ReplaceAll(flag, "-", "_")
	case flag == "handshake", flag == "handshake-rate":
		return "handshake"
	case strings.HasPrefix(flag, "tls-"):
		return "tls"
	}
	return ""
}

// fill sets what the flags say.
func (f *meetingFlags) fill(s *fanfarev1.Subscription) {
	s.Headers = f.headers.values
	s.ConnectTimeout, s.TlsTimeout = f.connectTimeout.value, f.tlsTimeout.value
	s.Compression, s.OmitTraceContext, s.Verification = f.compression, f.omitTrace, f.verification
	if f.certificate.content+f.key.content+f.authority.content != "" {
		s.Tls = &fanfarev1.TlsOptions{
			ClientCertificate: f.certificate.content, ClientKey: f.key.content, CaCertificates: f.authority.content,
		}
	}
	if f.handshake || f.handshakeRate != 0 {
		s.Handshake = &fanfarev1.WebhookHandshake{RequestsPerMinute: f.handshakeRate}
	}
	f.oauth.Parameters = f.parameters.values
	switch {
	case f.noAuthentication:
	case f.username+f.password != "":
		s.Authentication = &fanfarev1.Authentication{Method: &fanfarev1.Authentication_Basic{
			Basic: &fanfarev1.BasicAuthentication{Username: f.username, Password: f.password},
		}}
	case f.token != "":
		s.Authentication = &fanfarev1.Authentication{Method: &fanfarev1.Authentication_Bearer{
			Bearer: &fanfarev1.BearerAuthentication{Token: f.token},
		}}
	case f.oauth.GetTokenUrl()+f.oauth.GetClientId()+f.oauth.GetClientSecret() != "":
		s.Authentication = &fanfarev1.Authentication{Method: &fanfarev1.Authentication_Oauth2{Oauth2: &f.oauth}}
	}
}

// pairsFlag is a list of names and values.
type pairsFlag struct{ values map[string]string }

// String implements pflag.Value. It shows no values.
func (f *pairsFlag) String() string { return strings.Join(slices.Sorted(maps.Keys(f.values)), ",") }

// Type implements pflag.Value.
func (f *pairsFlag) Type() string { return "pair" }

// Set implements pflag.Value. The empty string makes the list empty.
func (f *pairsFlag) Set(s string) error {
	if s == "" {
		f.values = nil
		return nil
	}
	name, value, ok := strings.Cut(s, ":")
	if !ok {
		return errors.New("want a name and a value, as in 'X-Api-Key: abc'")
	}
	if f.values == nil {
		f.values = make(map[string]string)
	}
	f.values[strings.TrimSpace(name)] = strings.TrimSpace(value)
	return nil
}

// fileFlag is the content of a file.
type fileFlag struct{ name, content string }

// String implements pflag.Value.
func (f *fileFlag) String() string { return f.name }

// Type implements pflag.Value.
func (f *fileFlag) Type() string { return "file" }

// Set implements pflag.Value. The empty string makes it empty.
func (f *fileFlag) Set(s string) error {
	f.name, f.content = s, ""
	if s == "" {
		return nil
	}
	content, err := os.ReadFile(s) //nolint:gosec // the user names the file
	f.content = string(content)
	return err
}

// authenticationText puts what an endpoint is shown in words, without secrets.
func authenticationText(s *fanfarev1.Subscription) string {
	var parts []string
	switch a := s.GetAuthentication(); {
	case a.GetBasic() != nil:
		parts = append(parts, "basic, "+a.GetBasic().GetUsername())
	case a.GetBearer() != nil:
		parts = append(parts, "bearer token")
	case a.GetOauth2() != nil:
		parts = append(parts, "oauth2, "+a.GetOauth2().GetClientId()+" at "+a.GetOauth2().GetTokenUrl())
	}
	if s.GetTls().GetClientCertificate() != "" {
		parts = append(parts, "client certificate")
	}
	if s.GetTls().GetCaCertificates() != "" {
		parts = append(parts, "own CA")
	}
	return strings.Join(parts, "; ")
}

// handshakeText puts an endpoint's consent in words; empty if it was not asked.
func handshakeText(s *fanfarev1.Subscription) string {
	h := s.GetHandshake()
	if h == nil {
		return ""
	}
	text := "any rate"
	if n := h.GetAllowedRequestsPerMinute(); n != 0 {
		text = number(int64(n)) + " requests a minute"
	}
	return text + ", granted to " + h.GetOrigin() + " at " + moment(h.GetGrantTime())
}

// headersText lists the names of the headers that every request has.
func headersText(s *fanfarev1.Subscription) string {
	return strings.Join(slices.Sorted(maps.Keys(s.GetHeaders())), ", ")
}
