package receiver

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/fanfare-dev/fanfare/signature"
)

const (
	// DefaultMaxBodyBytes bounds a request's body. It takes a batch of large
	// events; a receiver of single ones can have less.
	DefaultMaxBodyBytes = 8 << 20
	// comeAgain is what a sender is asked to wait after what passes soon.
	comeAgain = 2 * time.Second
)

// Gate lets only requests through that come from where they may, and that are
// signed. The zero Gate lets nothing through.
type Gate struct {
	// Verifiers are the senders that are believed: it is enough that one of
	// them verifies a request. Several secrets of one sender belong into one
	// Verifier.
	Verifiers []signature.Verifier
	// AllowUnsigned lets requests through if there are no Verifiers.
	AllowUnsigned bool
	// Origin says from which addresses requests are taken.
	Origin Origin
	// MaxBodyBytes bounds the body; DefaultMaxBodyBytes if 0.
	MaxBodyBytes int64
	// Logger is told which requests are refused, and why. nil: nobody is.
	Logger *slog.Logger
}

// errNobody: a Gate without Verifiers that was not told to be open.
var errNobody = errors.New("no verifier is configured, so nothing can be verified")

// Validate returns an error that names the field which makes no sense.
func (g Gate) Validate() error {
	switch {
	case len(g.Verifiers) == 0 && !g.AllowUnsigned:
		return errors.New("receiver: Verifiers is empty, and AllowUnsigned is not set")
	case len(g.Verifiers) > 0 && g.AllowUnsigned:
		return errors.New("receiver: AllowUnsigned is set beside Verifiers")
	case g.MaxBodyBytes < 0:
		return fmt.Errorf("receiver: MaxBodyBytes is %d", g.MaxBodyBytes)
	}
	for i, v := range g.Verifiers {
		if len(v.Secrets) == 0 && len(v.PublicKeys) == 0 {
			return fmt.Errorf("receiver: Verifiers[%d] has neither secrets nor public keys", i)
		}
	}
	return nil
}

// Check reads a request's body and returns it if the request may pass; else a
// *Error of kind Forbidden, TooLarge, Malformed (the body broke off) or
// Unverified. The request's own Body can be read again afterwards.
func (g Gate) Check(r *http.Request) ([]byte, error) {
	body, _, err := g.check(r)
	return body, err
}

// check is Check, and says who has verified the request: nil if nobody had to.
func (g Gate) check(r *http.Request) (body []byte, by *signature.Verifier, err error) {
	if err := g.Origin.check(r); err != nil {
		return nil, nil, &Error{Forbidden, err}
	}
	body, err = g.read(r)
	if err != nil {
		return nil, nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	by, err = g.verify(r.Header, body)
	return body, by, err
}

func (g Gate) maxBody() int64 { return cmp.Or(g.MaxBodyBytes, DefaultMaxBodyBytes) }

func (g Gate) read(r *http.Request) ([]byte, error) {
	most := g.maxBody()
	if r.ContentLength > most {
		return nil, &Error{TooLarge, fmt.Errorf("the body has %d bytes, at most %d are taken", r.ContentLength, most)}
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, most+1))
	switch {
	case err != nil:
		return nil, &Error{Malformed, fmt.Errorf("reading the body: %w", err)}
	case int64(len(body)) > most:
		return nil, &Error{TooLarge, fmt.Errorf("the body has more than %d bytes", most)}
	}
	return body, nil
}

// verify asks one verifier after the other. What it returns is what the first
// says: with one it is the reason, with several nobody knows whose the request
// was meant to be.
func (g Gate) verify(header http.Header, body []byte) (by *signature.Verifier, err error) {
	if len(g.Verifiers) == 0 {
		if g.AllowUnsigned {
			return nil, nil
		}
		return nil, &Error{Unverified, errNobody}
	}
	var first error
	for i := range g.Verifiers {
		err := g.Verifiers[i].Verify(header, body, time.Now())
		if err == nil {
			return &g.Verifiers[i], nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, &Error{Unverified, first}
}

// bodyKey is where Middleware keeps the body in a request's context.
type bodyKey struct{}

// Body returns the body of a request that has passed a Gate's Middleware, as it
// was received, byte for byte. It must not be changed.
func Body(ctx context.Context) ([]byte, bool) {
	body, ok := ctx.Value(bodyKey{}).([]byte)
	return body, ok
}

// Middleware lets through to next what Check does, and answers the rest. next
// can read the request's Body as ever, or have it whole from Body.
func (g Gate) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := g.Check(r)
		if err != nil {
			g.refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), bodyKey{}, body)))
	})
}

// refuse answers a request that is not handled.
func (g Gate) refuse(w http.ResponseWriter, r *http.Request, err error) {
	refusal, ok := errors.AsType[*Error](err)
	if !ok {
		refusal = &Error{Failed, err}
	}
	if g.Logger != nil {
		g.Logger.LogAttrs(r.Context(), levelOf(refusal.Kind), "webhook refused", slog.String("kind", refusal.Kind.String()),
			slog.String("id", r.Header.Get(signature.HeaderID)), slog.String("from", r.RemoteAddr), slog.Any("error", refusal.Err))
	}
	if wait := refusal.retryAfter(); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	}
	http.Error(w, refusal.text(), refusal.Status())
}

// levelOf is how loudly a refusal is told: what others do wrong is no fault here.
func levelOf(kind Kind) slog.Level {
	switch kind {
	case Failed, Broken:
		return slog.LevelError
	case Busy:
		return slog.LevelInfo
	case Forbidden, TooLarge, Unverified, Malformed, Unhandled, Full, Stopping:
	}
	return slog.LevelWarn
}
