package access_test

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/fanfare-dev/fanfare/coordinator/serve"
	"github.com/fanfare-dev/fanfare/internal/access"
)

var quiet = slog.New(slog.DiscardHandler)

// Every method that a coordinator serves has a rule, and where the rule is
// about a tenant, the request names one.
func TestEveryMethodHasARule(t *testing.T) {
	server := grpc.NewServer()
	serve.New(serve.Config{}).Register(server)
	healthv1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	count := 0
	for service, info := range server.GetServiceInfo() {
		for _, method := range info.Methods {
			count++
			if err := access.CheckRule("/" + service + "/" + method.Name); err != nil {
				t.Error(err)
			}
		}
	}
	if count < 30 {
		t.Errorf("%d methods: this test is blind", count)
	}
	if err := access.CheckRule("/fanfare.v1.EventService/Unknown"); err == nil {
		t.Error("a method that is not there has a rule")
	}
}

// A method without a rule is refused to the caller who may do everything.
func TestAMethodWithoutARuleIsRefused(t *testing.T) {
	guard := access.NewGuard(nil)
	_, err := guard.Unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/a.B/C"}, func(context.Context, any) (any, error) {
		t.Error("it was called")
		return nil, nil
	})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v", err)
	}
}

// Over a connection of unknown kind nobody is anybody, whatever they say.
func TestPlainTextIsNobody(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	token, entry, err := access.NewToken(access.Entry{Name: "a", Tenant: "*", Scopes: []access.Scope{access.Admin}})
	if err != nil {
		t.Fatal(err)
	}
	writeTokens(t, file, entry)
	tokens, err := access.OpenTokens(file, quiet)
	if err != nil {
		t.Fatal(err)
	}
	guard := access.NewGuard(tokens)
	server := grpc.NewServer(grpc.ChainStreamInterceptor(guard.Stream), grpc.ChainUnaryInterceptor(guard.Unary))
	reflection.Register(server)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(healthv1.HealthCheckResponse)); status.Code(err) != codes.Unauthenticated {
		t.Errorf("reflection in plain text: %v", err)
	}

	// HTTP likewise: a token in plain text is none.
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was let through") })
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/cluster", nil)
	request.Header.Set("Authorization", "Bearer "+token)
	answer := httptest.NewRecorder()
	guard.HTTP(next).ServeHTTP(answer, request)
	if answer.Code != http.StatusUnauthorized || answer.Header().Get("WWW-Authenticate") == "" {
		t.Errorf("status %d", answer.Code)
	}
}

func writeTokens(t *testing.T, file string, entries ...access.Entry) {
	t.Helper()
	text, err := access.EncodeEntries(entries...)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTokenFiles(t *testing.T) {
	const long = "a-token-of-somebody-elses-making"
	hash := strings.Repeat("0a", 32)
	for _, tt := range []struct {
		name, text string
		says       string // "": it is accepted
	}{
		{"empty", "", ""},
		{"none", "tokens: []", ""},
		{"a hash", "tokens: [{name: a, sha256: " + hash + ", tenant: acme, scopes: [read]}]", ""},
		{"a token", "tokens: [{name: a, token: " + long + ", tenant: '*', scopes: [admin], expires: 2030-01-01T00:00:00Z}]", ""},
		{"both", "tokens: [{name: a, token: " + long + ", sha256: " + hash + ", tenant: acme, scopes: [read]}]", "either token or sha256"},
		{"neither", "tokens: [{name: a, tenant: acme, scopes: [read]}]", "either token or sha256"},
		{"a short token", "tokens: [{name: a, token: secret-short, tenant: acme, scopes: [read]}]", "shorter than 24"},
		{"a hash that is none", "tokens: [{name: a, sha256: abc, tenant: acme, scopes: [read]}]", "sha256 of a"},
		{"no name", "tokens: [{sha256: " + hash + ", tenant: acme, scopes: [read]}]", "tokens[0]: name is empty"},
		{"no tenant", "tokens: [{name: a, sha256: " + hash + ", scopes: [read]}]", "tenant of a"},
		{"no scopes", "tokens: [{name: a, sha256: " + hash + ", tenant: acme}]", "scopes of a are empty"},
		{"a scope that is none", "tokens: [{name: a, sha256: " + hash + ", tenant: acme, scopes: [root]}]", `"root"`},
		{"twice", "tokens: [{name: a, sha256: " + hash + ", tenant: acme, scopes: [read]}, {name: b, sha256: " + hash + ", tenant: acme, scopes: [read]}]", "the same token"},
		{"an unknown key", "tokens:\n- nam: secret-value", "line 2"},
		{"a value of another kind", "tokens: secret-value", "line 1"},
		{"no YAML", "{secret-value", "not YAML"},
	} {
		file := filepath.Join(t.TempDir(), "tokens.yaml")
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := access.OpenTokens(file, quiet)
		if (err == nil) != (tt.says == "") || err != nil && (!strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.says)
		}
	}
}

// A token counts until it expires or its entry is taken out, and what cannot be
// read changes nothing.
func TestTokensChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "tokens.yaml")
		soon := time.Now().Add(time.Hour)
		token, entry, err := access.NewToken(access.Entry{Name: "a", Tenant: "acme", Scopes: []access.Scope{access.Read}, Expires: &soon})
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := hex.DecodeString(entry.SHA256); err != nil || len(raw) != 32 || entry.Token != "" {
			t.Fatalf("entry %+v", entry)
		}
		writeTokens(t, file, entry)
		tokens, err := access.OpenTokens(file, quiet)
		if err != nil {
			t.Fatal(err)
		}
		expect := func(what string, want bool) {
			t.Helper()
			caller, ok := tokens.Find(token, time.Now())
			if ok != want || ok && (caller.Tenant != "acme" || !slices.Equal(caller.Scopes, entry.Scopes)) {
				t.Errorf("%s: %+v, %v", what, caller, ok)
			}
		}
		expect("at first", true)
		if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		expect("while the file is broken", true)
		if err := os.WriteFile(file, []byte("tokens: []"), 0o600); err != nil {
			t.Fatal(err)
		}
		expect("within the second", true)
		<-time.After(time.Second)
		expect("taken out", false)
		writeTokens(t, file, entry)
		<-time.After(time.Second)
		expect("put back", true)
		<-time.After(time.Hour)
		expect("expired", false)
	})
}

// FuzzTokens: no file of tokens makes the reader panic, or say what is in it.
func FuzzTokens(f *testing.F) {
	f.Add("tokens: [{name: a, token: aaaaaaaaaaaaaaaaaaaaaaaaa, tenant: acme, scopes: [read]}]")
	f.Add("tokens:\n- name: [")
	f.Add("&a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := access.ParseTokens([]byte(text)); err != nil && errors.Is(err, io.EOF) {
			t.Error("an empty file is no error")
		}
	})
}
