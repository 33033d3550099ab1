package access

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	pathlib "path"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/fanfare-dev/fanfare/internal/pki"
)

const (
	authorization = "authorization"
	bearerScheme  = "bearer "
)

// Guard asks callers who they are, and lets those pass who may. Safe for
// concurrent use.
type Guard struct {
	tokens *Tokens
	// inside is the key under which the REST gateway, in this process, says
	// who it calls for. Nobody outside can guess it.
	inside string
}

// NewGuard returns a guard that knows clients by their certificates, and by
// their tokens unless those are nil.
func NewGuard(tokens *Tokens) *Guard {
	return &Guard{tokens: tokens, inside: "fanfare-caller-" + strings.ToLower(rand.Text())}
}

// callerKey is where a context has its Caller.
type callerKey struct{}

// CallerOf returns who makes the call that a context belongs to.
func CallerOf(ctx context.Context) (Caller, bool) {
	caller, ok := ctx.Value(callerKey{}).(Caller)
	return caller, ok
}

// Unary is the interceptor for calls with one request.
func (g *Guard) Unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	r, caller, err := g.begin(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	if r.who != everybody {
		if err := caller.may(r, r.tenantOf(request)); err != nil {
			return nil, err
		}
	}
	return handler(context.WithValue(ctx, callerKey{}, caller), request)
}

// Stream is the interceptor for streams. The tenant of every message is looked
// at.
func (g *Guard) Stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	r, caller, err := g.begin(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	guarded := &guardedStream{ServerStream: stream, ctx: context.WithValue(stream.Context(), callerKey{}, caller), rule: r, caller: caller}
	if r.who != inTenant && r.who != everybody {
		if err := caller.may(r, ""); err != nil {
			return err
		}
	}
	return handler(server, guarded)
}

// begin returns the rule of a method, and who calls if that matters.
func (g *Guard) begin(ctx context.Context, method string) (rule, Caller, error) {
	r, err := ruleOf(method)
	if err != nil || r.who == everybody {
		return r, Caller{}, err
	}
	caller, err := g.identify(ctx)
	return r, caller, err
}

// guardedStream lets no message pass that is about another tenant.
type guardedStream struct {
	grpc.ServerStream

	ctx    context.Context //nolint:containedctx // it is the stream's own
	rule   rule
	caller Caller
	tenant string // of the messages so far
}

// Context implements grpc.ServerStream.
func (s *guardedStream) Context() context.Context { return s.ctx }

// RecvMsg implements grpc.ServerStream. A message that names no tenant is about
// the one that a message before it named.
func (s *guardedStream) RecvMsg(message any) error {
	if err := s.ServerStream.RecvMsg(message); err != nil || s.rule.who != inTenant {
		return err
	}
	if tenant := s.rule.tenantOf(message); tenant != "" {
		s.tenant = tenant
	}
	return s.caller.may(s.rule, s.tenant)
}

// identify returns who makes a gRPC call.
func (g *Guard) identify(ctx context.Context) (Caller, error) {
	from, _ := peer.FromContext(ctx)
	if from == nil {
		return Caller{}, errUnknown()
	}
	header, _ := metadata.FromIncomingContext(ctx)
	switch info := from.AuthInfo.(type) {
	case pki.Inside:
		return decodeCaller(header.Get(g.inside))
	case credentials.TLSInfo:
		return g.callerBy(info.State.VerifiedChains, header.Get(authorization))
	}
	return Caller{}, errUnknown()
}

// callerBy returns who shows a certificate, which was verified, or a token. A
// token counts more: who shows both means to act as its bearer.
func (g *Guard) callerBy(chains [][]*x509.Certificate, authorizations []string) (Caller, error) {
	switch {
	case len(authorizations) > 1:
		return Caller{}, status.Error(codes.Unauthenticated, "authorization is given more than once")
	case len(authorizations) == 1:
		scheme, token := "", ""
		if len(authorizations[0]) > len(bearerScheme) {
			scheme, token = authorizations[0][:len(bearerScheme)], strings.TrimSpace(authorizations[0][len(bearerScheme):])
		}
		if !strings.EqualFold(scheme, bearerScheme) {
			return Caller{}, status.Error(codes.Unauthenticated, "authorization is not a bearer token")
		}
		if caller, ok := g.tokens.find(token, time.Now()); ok {
			return caller, nil
		}
		return Caller{}, status.Error(codes.Unauthenticated, "the token is not known here, or has expired")
	case len(chains) == 0 || len(chains[0]) == 0:
		return Caller{}, errUnknown()
	}
	id, err := pki.IdentityOf(chains[0][0])
	if err != nil {
		return Caller{}, status.Error(codes.Unauthenticated, err.Error())
	}
	return callerOf(id), nil
}

func errUnknown() error {
	return status.Error(codes.Unauthenticated,
		"say who you are: with a client certificate of this cluster, or a token (authorization: Bearer …)")
}

// encode writes who the gateway calls for.
func (c Caller) encode() (string, error) {
	text, err := json.Marshal(c)
	return base64.RawURLEncoding.EncodeToString(text), err
}

func decodeCaller(values []string) (caller Caller, err error) {
	if len(values) != 1 {
		return Caller{}, errUnknown()
	}
	text, err := base64.RawURLEncoding.DecodeString(values[0])
	if err != nil || json.Unmarshal(text, &caller) != nil {
		return Caller{}, errUnknown()
	}
	return caller, nil
}

// open are the paths over HTTP that everybody may read: what load balancers
// ask, and what is the same for everybody.
func open(path string) bool {
	keys, _ := pathlib.Match("/v1/tenants/*/keys", path) // of ListSigningKeys
	return path == "/healthz" || path == "/readyz" || path == "/openapi.json" || keys
}

// HTTP guards a handler. Calls of the API are let through with who makes them,
// for the gRPC services to decide; metrics need their scope in all tenants.
func (g *Guard) HTTP(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if open(r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		caller, err := g.identifyHTTP(r)
		if err == nil && r.URL.Path == "/metrics" {
			err = caller.may(rule{everywhere, Metrics, ""}, "")
		}
		if err != nil {
			refuse(w, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, caller)))
	})
}

// Inside is how the REST gateway dials the services in its own process: calls
// say who HTTP has found them to be from.
func (g *Guard) Inside() grpc.DialOption { return grpc.WithPerRPCCredentials(onBehalf{g.inside}) }

// onBehalf tells for whom calls are made.
type onBehalf struct{ key string }

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (o onBehalf) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	caller, ok := CallerOf(ctx)
	if !ok {
		return nil, errUnknown()
	}
	text, err := caller.encode()
	return map[string]string{o.key: text}, err
}

// RequireTransportSecurity implements credentials.PerRPCCredentials. The
// connection does not leave the process.
func (onBehalf) RequireTransportSecurity() bool { return false }

func (g *Guard) identifyHTTP(r *http.Request) (Caller, error) {
	if r.TLS == nil {
		return Caller{}, errUnknown()
	}
	return g.callerBy(r.TLS.VerifiedChains, r.Header.Values(authorization))
}

// refuse answers as the REST gateway does.
func refuse(w http.ResponseWriter, err error) {
	s, code := status.Convert(err), http.StatusInternalServerError
	switch s.Code() {
	case codes.Unauthenticated:
		code = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", `Bearer realm="fanfare"`)
	case codes.PermissionDenied:
		code = http.StatusForbidden
	default:
		s = status.New(codes.Internal, "it cannot be decided who may call")
	}
	answer := struct {
		Code    codes.Code `json:"code"`
		Message string     `json:"message"`
		Details []any      `json:"details"`
	}{s.Code(), s.Message(), []any{}}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(answer) // the client may have gone
}
