package serve_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func basic(user, password string) *fanfarev1.Authentication {
	return &fanfarev1.Authentication{Method: &fanfarev1.Authentication_Basic{Basic: &fanfarev1.BasicAuthentication{Username: user, Password: password}}}
}

func bearer(token string) *fanfarev1.Authentication {
	return &fanfarev1.Authentication{Method: &fanfarev1.Authentication_Bearer{Bearer: &fanfarev1.BearerAuthentication{Token: token}}}
}

func oauth2(change func(*fanfarev1.Oauth2Authentication)) *fanfarev1.Authentication {
	o := &fanfarev1.Oauth2Authentication{
		TokenUrl: "https://auth.example.com/token", ClientId: "fanfare", ClientSecret: "hidden-client-secret",
		Scopes: []string{"hooks"}, Parameters: map[string]string{"audience": "hidden-audience"},
	}
	change(o)
	return &fanfarev1.Authentication{Method: &fanfarev1.Authentication_Oauth2{Oauth2: o}}
}

// newPair makes a certificate and its key in PEM.
func newPair(t *testing.T) (certificate, key string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
}

func TestCredentialsAreChecked(t *testing.T) {
	type sub = fanfarev1.Subscription
	headers := func(pairs ...string) *sub {
		s := &sub{Headers: make(map[string]string)}
		for i := 0; i < len(pairs); i += 2 {
			s.Headers[pairs[i]] = pairs[i+1]
		}
		return s
	}
	many := &sub{Headers: make(map[string]string)}
	for i := range 21 {
		many.Headers[fmt.Sprintf("X-%d", i)] = "v"
	}
	withAuthorization := headers("authorization", "x")
	withAuthorization.Authentication = bearer("abc")
	custom := headers("X-Sig", "v")
	custom.Signing = &fanfarev1.Signing{Scheme: "hmac", Hmac: &fanfarev1.HmacSigning{Header: "x-sig"}}
	certificate, key := newPair(t)
	_, otherKey := newPair(t)
	tests := []subscriptionLimit{
		{"a header", headers("X-Api-Key", "v", "Authorization", "Custom x"), ""},
		{"21 headers", many, "headers"},
		{"a name that is none", headers("a b", "v"), "headers"},
		{"no name", headers("", "v"), "headers"},
		{"the same twice", headers("X-A", "v", "x-a", "v"), "headers"},
		{"a value with a line break", headers("X-A", "v\r\nX-B: w"), "headers[X-A]"},
		{"no value", headers("X-A", ""), "headers[X-A]"},
		{"a mask for nothing", headers("X-A", "***"), "headers[X-A]"},
		{"a long value", headers("X-A", strings.Repeat("v", 4097)), "headers[X-A]"},
		{"authorization twice", withAuthorization, "headers"},
		{"the signature's header", custom, "headers"},
		{"no method", &sub{Authentication: &fanfarev1.Authentication{}}, "authentication"},
		{"basic", &sub{Authentication: basic("Aladdin", "open sesame")}, ""},
		{"a user with a colon", &sub{Authentication: basic("a:b", "c")}, "authentication.basic.username"},
		{"no password", &sub{Authentication: basic("a", "")}, "authentication.basic.password"},
		{"bearer", &sub{Authentication: bearer("abc")}, ""},
		{"a token with a space", &sub{Authentication: bearer("a bc")}, "authentication.bearer.token"},
		{"oauth2", &sub{Authentication: oauth2(func(*fanfarev1.Oauth2Authentication) {})}, ""},
		{"tokens from where it is denied", &sub{Authentication: oauth2(func(o *fanfarev1.Oauth2Authentication) { o.TokenUrl = "https://denied.example" })}, "authentication.oauth2.token_url"},
		{"no client", &sub{Authentication: oauth2(func(o *fanfarev1.Oauth2Authentication) { o.ClientId = "" })}, "authentication.oauth2.client_id"},
		{"no client secret", &sub{Authentication: oauth2(func(o *fanfarev1.Oauth2Authentication) { o.ClientSecret = "" })}, "authentication.oauth2.client_secret"},
		{"a parameter of ours", &sub{Authentication: oauth2(func(o *fanfarev1.Oauth2Authentication) { o.Parameters = map[string]string{"grant_type": "x"} })}, "authentication.oauth2.parameters"},
		{"a pair", &sub{Tls: &fanfarev1.TlsOptions{ClientCertificate: certificate, ClientKey: key, CaCertificates: certificate}}, ""},
		{"no pair", &sub{Tls: &fanfarev1.TlsOptions{ClientCertificate: certificate, ClientKey: otherKey}}, "tls.client_certificate"},
		{"a certificate alone", &sub{Tls: &fanfarev1.TlsOptions{ClientCertificate: certificate}}, "tls.client_certificate"},
		{"no authority", &sub{Tls: &fanfarev1.TlsOptions{CaCertificates: "none"}}, "tls.ca_certificates"},
		{"a huge authority", &sub{Tls: &fanfarev1.TlsOptions{CaCertificates: strings.Repeat("x", 32<<10+1)}}, "tls.ca_certificates"},
		{"timeouts", &sub{ConnectTimeout: durationpb.New(100 * time.Millisecond), TlsTimeout: durationpb.New(30 * time.Second)}, ""},
		{"a short connect timeout", &sub{ConnectTimeout: durationpb.New(99 * time.Millisecond)}, "connect_timeout"},
		{"a long TLS timeout", &sub{TlsTimeout: durationpb.New(31 * time.Second)}, "tls_timeout"},
		{"gzip", &sub{Compression: "gzip"}, ""},
		{"zstd", &sub{Compression: "zstd"}, "compression"},
	}
	for _, name := range []string{
		"Host", "content-length", "Content-Type", "Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Expect",
		"Proxy-Authorization", "proxy-connection", "webhook-signature", "Webhook-Anything", "ce-type", "Stripe-Signature", "X-Hub-Signature-256", "traceparent", "User-Agent",
	} {
		tests = append(tests, subscriptionLimit{"header " + name, headers(name, "v"), "headers"})
	}
	inWorld(t, func(w *world) {
		for _, tt := range tests {
			code, field := codes.OK, ""
			if tt.field != "" {
				code, field = codes.InvalidArgument, "subscription."+tt.field
			}
			given := proto.CloneOf(tt.given)
			given.Url = "https://example.com"
			_, err := w.subscriptions.CreateSubscription(w.Context(), &fanfarev1.CreateSubscriptionRequest{Parent: tenant, Subscription: given})
			w.answered(tt.name, err, code, field)
		}
	})
}

// Secrets are shown to nobody but the worker, lie in the log encrypted, and
// stay when *** is sent back.
func TestCredentialsAreMasked(t *testing.T) {
	hidden := []string{"hidden-header", "hidden-client-secret", "hidden-audience", "hidden-later"}
	inWorld(t, func(w *world) {
		looks := func(what string, text string) {
			w.Helper()
			for _, secret := range hidden {
				if strings.Contains(text, secret) {
					w.Errorf("%s shows %s: %s", what, secret, text)
				}
			}
		}
		created := must[*fanfarev1.Subscription](w)(w.subscriptions.CreateSubscription(w.Context(), &fanfarev1.CreateSubscriptionRequest{
			Parent: tenant, Subscription: &fanfarev1.Subscription{
				Url: "https://example.com/hook", Headers: map[string]string{"X-Api-Key": "hidden-header"},
				Authentication: oauth2(func(*fanfarev1.Oauth2Authentication) {}),
			},
		}))
		looks("create", created.String())
		looks("get", string(w.do("GET", "/v1/"+created.GetName(), "").body))
		looks("list", string(w.do("GET", "/v1/"+tenant+"/subscriptions", "").body))
		got := must[*fanfarev1.Subscription](w)(w.subscriptions.GetSubscription(w.Context(), &fanfarev1.GetSubscriptionRequest{Name: created.GetName()}))
		if got.GetHeaders()["X-Api-Key"] != "***" || got.GetAuthentication().GetOauth2().GetClientSecret() != "***" || got.GetAuthentication().GetOauth2().GetClientId() != "fanfare" {
			w.Errorf("got %v", got)
		}

		// What was shown is sent back, with one thing changed.
		got.Headers["X-More"] = "hidden-later"
		updated := must[*fanfarev1.Subscription](w)(w.subscriptions.UpdateSubscription(w.Context(), &fanfarev1.UpdateSubscriptionRequest{
			Subscription: got, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"*"}},
		}))
		looks("update", updated.String())
		patched := w.do("PATCH", "/v1/"+created.GetName(), `{"authentication":{"basic":{"username":"u","password":"***"}}}`)
		w.refusedHTTP("a mask for what is not there", patched, 400, "subscription.authentication.basic.password")
		moved := proto.CloneOf(updated)
		moved.GetAuthentication().GetOauth2().TokenUrl = "https://elsewhere.example/token"
		_, err := w.subscriptions.UpdateSubscription(w.Context(), &fanfarev1.UpdateSubscriptionRequest{
			Subscription: moved, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"authentication"}},
		})
		w.refused("a secret goes elsewhere", err, codes.InvalidArgument, "subscription.authentication.oauth2.client_secret")

		if credentials := w.endpoint(created).GetCredentials(); credentials.GetHeaders()["X-Api-Key"] != "hidden-header" ||
			credentials.GetHeaders()["X-More"] != "hidden-later" || credentials.GetAuthentication().GetOauth2().GetClientSecret() != "hidden-client-secret" {
			w.Errorf("the worker gets %v", credentials)
		}
	})
}

// endpoint returns a subscription as a worker gets it, from the partition of
// the default tenant.
func (w *world) endpoint(sub *fanfarev1.Subscription) *linkv1.Endpoint {
	w.Helper()
	for partition := range int32(partitions) {
		stream, err := linkv1.NewLinkServiceClient(w.conn).Attach(w.Context())
		if err != nil {
			w.Fatal(err)
		}
		for _, request := range []*linkv1.AttachRequest{
			{Message: &linkv1.AttachRequest_Hello{Hello: &linkv1.Hello{Worker: "w", Incarnation: "i", Partition: partition, CreditCount: 1, CreditBytes: 1}}},
			{Message: &linkv1.AttachRequest_Claim{Claim: &linkv1.Claim{Slot: 0, Epoch: 1}}},
			{Message: &linkv1.AttachRequest_Claim{Claim: &linkv1.Claim{Slot: 1, Epoch: 1}}},
		} {
			if err := stream.Send(request); err != nil {
				w.Fatal(err)
			}
		}
		for whole := 0; whole < slots; {
			response, err := stream.Recv()
			if err != nil {
				w.Fatal(err)
			}
			for _, endpoint := range response.GetSnapshot().GetEndpoints() {
				if endpoint.GetSubscription().GetCreateTime().AsTime().Equal(sub.GetCreateTime().AsTime()) {
					return endpoint
				}
			}
			if response.GetSnapshot().GetComplete() {
				whole++
			}
		}
	}
	w.Fatal("no worker gets the subscription")
	return nil
}

// An event has the trace context of the call that publishes it, over gRPC and
// HTTP, unless it brings its own.
func TestTraceContextIsStored(t *testing.T) {
	const (
		parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		own    = "00-11111111111111111111111111111111-2222222222222222-00"
	)
	inWorld(t, func(w *world) {
		ctx := metadata.AppendToOutgoingContext(w.Context(), "traceparent", parent, "tracestate", "a=b")
		must[*fanfarev1.PublishResponse](w)(w.events.Publish(ctx, &fanfarev1.PublishRequest{Parent: tenant, Events: []*fanfarev1.Event{
			{Id: "called", Type: "a"},
			{Id: "own", Type: "a", Extensions: map[string]string{"traceparent": own}},
		}}))
		w.do("POST", "/v1/"+tenant+"/events", "{}", "ce-type", "a", "ce-id", "http", "Traceparent", parent)
		w.do("POST", "/v1/"+tenant+"/events", "{}", "ce-type", "a", "ce-id", "nonsense", "Traceparent", "nonsense")
		for id, want := range map[string][2]string{"called": {parent, "a=b"}, "own": {own, ""}, "http": {parent, ""}, "nonsense": {}} {
			event := must[*fanfarev1.Event](w)(w.events.GetEvent(w.Context(), &fanfarev1.GetEventRequest{Name: tenant + "/events/" + id}))
			if got := [2]string{event.GetExtensions()["traceparent"], event.GetExtensions()["tracestate"]}; got != want {
				w.Errorf("%s: got %q, want %q", id, got, want)
			}
		}
	})
}
