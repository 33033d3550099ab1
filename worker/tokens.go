package worker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

// classAuthentication: the token that the endpoint asks for could not be had.
const classAuthentication egress.Class = "authentication"

const (
	// tokenTimeout bounds one request for a token; the attempt's own timeout
	// does too.
	tokenTimeout = 10 * time.Second
	// tokenEarly is how long before its end a token is replaced.
	tokenEarly = 30 * time.Second
	// maxTokenBytes bounds a token.
	maxTokenBytes = 16 << 10
	// maxTokenAnswer bounds what a token endpoint answers.
	maxTokenAnswer = 64 << 10
)

// tokenError says that there is no token. Its text has nothing of what the
// token endpoint wrote but a code of RFC 6749: it may have written down what it
// was sent.
type tokenError struct {
	problem string
	cause   error // for Classify; nil if the token endpoint answered
}

// Error implements error.
func (e *tokenError) Error() string {
	if e.cause != nil {
		return "fetching an OAuth2 token: " + e.cause.Error()
	}
	return "fetching an OAuth2 token: " + e.problem
}

// Unwrap returns why the token endpoint was not reached.
func (e *tokenError) Unwrap() error { return e.cause }

// tokens keeps the token for one endpoint. Safe for concurrent use: one
// request for a token is made at a time, and whoever waits for it gets it.
type tokens struct {
	config clientcredentials.Config
	turn   chan struct{} // capacity 1: holds a value while a token is fetched
	token  atomic.Pointer[keptToken]
}

// keptToken is a token with the time from which on it is to be replaced; zero
// if it does not expire.
type keptToken struct {
	*oauth2.Token
	replace time.Time
}

func newTokens(o *fanfarev1.Oauth2Authentication) *tokens {
	parameters := make(url.Values)
	for name, value := range o.GetParameters() {
		parameters.Set(name, value)
	}
	return &tokens{
		config: clientcredentials.Config{
			ClientID: o.GetClientId(), ClientSecret: o.GetClientSecret(), TokenURL: o.GetTokenUrl(),
			Scopes: o.GetScopes(), EndpointParams: parameters,
		},
		turn: make(chan struct{}, 1),
	}
}

// tokenTransport is the way out of all attempts, guard included.
type tokenTransport struct {
	client    Doer
	userAgent string
}

// RoundTrip implements http.RoundTripper.
func (t tokenTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("User-Agent", t.userAgent)
	response, err := t.client.Do(r)
	if err == nil {
		response.Body = http.MaxBytesReader(nil, response.Body, maxTokenAnswer)
	}
	return response, err
}

// get returns a token, and whether it was kept from before. If it was not, it
// is fetched by way of the given transport.
func (t *tokens) get(ctx context.Context, way http.RoundTripper) (token string, kept bool, err error) {
	if token := t.fresh(); token != nil {
		return token.AccessToken, true, nil
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return "", false, &tokenError{cause: ctx.Err()}
	}
	if token := t.fresh(); token != nil { // whoever was before has fetched it
		return token.AccessToken, true, nil
	}
	client := &http.Client{
		Transport:     way,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       tokenTimeout,
	}
	fetched, err := t.config.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err != nil {
		return "", false, tokenProblem(err)
	}
	if problem := checkToken(fetched); problem != "" {
		return "", false, &tokenError{problem: problem}
	}
	newest := &keptToken{Token: fetched, replace: fetched.Expiry}
	if time.Until(fetched.Expiry) > 2*tokenEarly {
		newest.replace = fetched.Expiry.Add(-tokenEarly)
	}
	t.token.Store(newest)
	return fetched.AccessToken, false, nil
}

// fresh returns the token that is kept, if it lasts for some time yet. One
// that lasts less than twice that from the start is kept until it ends.
func (t *tokens) fresh() *keptToken {
	token := t.token.Load()
	if token == nil || !token.replace.IsZero() && !time.Now().Before(token.replace) {
		return nil
	}
	return token
}

// drop forgets a token that the endpoint refused, unless there is a newer one.
func (t *tokens) drop(refused string) {
	if token := t.token.Load(); token != nil && token.AccessToken == refused {
		t.token.CompareAndSwap(token, nil)
	}
}

// current returns the text of the token that is kept, whether or not it is
// good any more.
func (t *tokens) current() string {
	if token := t.token.Load(); token != nil {
		return token.AccessToken
	}
	return ""
}

// checkToken says what is wrong with a token: it becomes a header.
func checkToken(token *oauth2.Token) string {
	if len(token.AccessToken) > maxTokenBytes {
		return fmt.Sprintf("the token has more than %d bytes", maxTokenBytes)
	}
	for _, c := range []byte(token.AccessToken) {
		if c <= ' ' || c > '~' {
			return "the token has characters that a header cannot carry"
		}
	}
	if kind := token.Type(); kind != "Bearer" {
		return "the token is not a bearer token"
	}
	return ""
}

// tokenProblem says why there is no token, without what the token endpoint
// wrote.
func tokenProblem(err error) error {
	if failure, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		status := 0
		if failure.Response != nil {
			status = failure.Response.StatusCode
		}
		text := fmt.Sprintf("the token endpoint answered %d", status)
		switch failure.ErrorCode { // RFC 6749, section 5.2
		case "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope":
			text += " " + failure.ErrorCode
		}
		return &tokenError{problem: text}
	}
	if cause, ok := errors.AsType[*url.Error](err); ok { // without the URL, which may have secrets in it
		return &tokenError{cause: cause.Err}
	}
	return &tokenError{problem: "its answer holds no token"}
}
