package serve_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/signature"
)

// signed makes a subscription that is signed like this.
func (w *world) signed(signing *fanfarev1.Signing) *fanfarev1.Subscription {
	w.Helper()
	return must[*fanfarev1.Subscription](w)(w.subscriptions.CreateSubscription(w.Context(), &fanfarev1.CreateSubscriptionRequest{
		Parent: tenant, Subscription: &fanfarev1.Subscription{Url: "https://example.com/hook", Signing: signing},
	}))
}

func (w *world) rotate(sub *fanfarev1.Subscription, secret string, grace *durationpb.Duration) *fanfarev1.SubscriptionSecret {
	w.Helper()
	return must[*fanfarev1.SubscriptionSecret](w)(w.subscriptions.RotateSubscriptionSecret(w.Context(), &fanfarev1.RotateSubscriptionSecretRequest{
		Name: sub.GetName() + "/secret", Secret: secret, Grace: grace,
	}))
}

// secretsOf returns the secrets in force, newest first.
func (w *world) secretsOf(sub *fanfarev1.Subscription) []string {
	w.Helper()
	shown := must[*fanfarev1.SubscriptionSecret](w)(w.subscriptions.GetSubscriptionSecret(w.Context(), &fanfarev1.GetSubscriptionSecretRequest{
		Name: sub.GetName() + "/secret",
	}))
	var texts []string
	for _, active := range shown.GetSecrets() {
		texts = append(texts, active.GetSecret())
	}
	if len(texts) == 0 || texts[0] != shown.GetSecret() {
		w.Errorf("the secret is %q, and in force are %q", shown.GetSecret(), texts)
	}
	return texts
}

func TestRotateSubscriptionSecret(t *testing.T) {
	inWorld(t, func(w *world) {
		sub := w.subscribe(tenant)
		first := sub.GetSecret()
		second := w.rotate(sub, "", nil).GetSecret()
		if second == first || !strings.HasPrefix(second, "whsec_") {
			w.Fatalf("the new secret is %q", second)
		}
		<-time.After(23 * time.Hour)
		third := secretOf(24)
		if got := w.rotate(sub, third, durationpb.New(7*24*time.Hour)).GetSecrets(); len(got) != 3 ||
			got[0].GetExpireTime() != nil || !got[1].GetExpireTime().AsTime().Equal(time.Now().Add(7*24*time.Hour)) ||
			!got[2].GetExpireTime().AsTime().Equal(time.Now().Add(time.Hour)) {
			w.Errorf("after 23 h and another rotation: %v", got)
		}
		if got, want := w.secretsOf(sub), []string{third, second, first}; !slices.Equal(got, want) {
			w.Errorf("in force %q, want %q", got, want)
		}
		<-time.After(time.Hour)
		if got, want := w.secretsOf(sub), []string{third, second}; !slices.Equal(got, want) {
			w.Errorf("when the first grace has passed: %q, want %q", got, want)
		}
		fourth := w.rotate(sub, "", durationpb.New(0)).GetSecret()
		if got, want := w.secretsOf(sub), []string{fourth}; !slices.Equal(got, want) {
			w.Errorf("after a rotation without grace: %q, want %q", got, want)
		}
		for range 4 {
			w.rotate(sub, "", nil)
		}
		_, err := w.subscriptions.RotateSubscriptionSecret(w.Context(), &fanfarev1.RotateSubscriptionSecretRequest{Name: sub.GetName() + "/secret"})
		w.refused("a sixth secret", err, codes.FailedPrecondition, "name")
		if got := w.secretsOf(sub); len(got) != 5 || got[4] != fourth {
			w.Errorf("in force are %q", got)
		}
	})
}

func TestRotateRefuses(t *testing.T) {
	inWorld(t, func(w *world) {
		sub, github := w.subscribe(tenant), w.signed(&fanfarev1.Signing{Scheme: "github"})
		for _, test := range []struct {
			name  string
			to    *fanfarev1.RotateSubscriptionSecretRequest
			code  codes.Code
			field string
		}{
			{"no name", &fanfarev1.RotateSubscriptionSecretRequest{}, codes.InvalidArgument, "name"},
			{"the subscription's name", &fanfarev1.RotateSubscriptionSecretRequest{Name: sub.GetName()}, codes.InvalidArgument, "name"},
			{"another", &fanfarev1.RotateSubscriptionSecretRequest{Name: tenant + "/subscriptions/sub_x/secret"}, codes.NotFound, ""},
			{"long grace", &fanfarev1.RotateSubscriptionSecretRequest{Name: sub.GetName() + "/secret", Grace: durationpb.New(7*24*time.Hour + 1)}, codes.InvalidArgument, "grace"},
			{"negative grace", &fanfarev1.RotateSubscriptionSecretRequest{Name: sub.GetName() + "/secret", Grace: durationpb.New(-1)}, codes.InvalidArgument, "grace"},
			{"text", &fanfarev1.RotateSubscriptionSecretRequest{Name: sub.GetName() + "/secret", Secret: "correct-horse-battery"}, codes.InvalidArgument, "secret"},
			{"short", &fanfarev1.RotateSubscriptionSecretRequest{Name: github.GetName() + "/secret", Secret: "short"}, codes.InvalidArgument, "secret"},
		} {
			_, err := w.subscriptions.RotateSubscriptionSecret(w.Context(), test.to)
			w.refused(test.name, err, test.code, test.field)
		}
		w.rotate(github, "correct-horse-battery", nil)
	})
}

// A receiver that has the public key verifies before, during and after a
// rotation, from one kind of Standard Webhooks to the other and back.
func TestSigningKeys(t *testing.T) {
	inWorld(t, func(w *world) {
		sub := w.signed(&fanfarev1.Signing{Scheme: "standard-ed25519"})
		if !strings.HasPrefix(sub.GetSecret(), "whsk_") || len(sub.GetPublicKeys()) != 1 {
			w.Fatalf("created %v", sub)
		}
		secret, err := signature.ParseSecret(sub.GetSecret())
		if err != nil {
			w.Fatal(err)
		}
		if got := secret.PublicKey().String(); got != sub.GetPublicKeys()[0] {
			w.Errorf("the public key is %s, shown is %s", got, sub.GetPublicKeys()[0])
		}
		w.subscribe(tenant)
		w.rotate(sub, "", durationpb.New(time.Hour))
		keys := w.do("GET", "/v1/"+tenant+"/keys", "").list(w, "keys")
		if len(keys) != 2 || keys[1]["publicKey"] != sub.GetPublicKeys()[0] || keys[0]["expireTime"] != nil || keys[1]["expireTime"] == nil {
			w.Errorf("keys: %v", keys)
		}
		for _, key := range keys {
			if key["kty"] != "OKP" || key["crv"] != "Ed25519" || key["use"] != "sig" || key["subscription"] != sub.GetName() {
				w.Errorf("key: %v", key)
			}
		}
		// Back to the symmetric kind.
		w.rotate(sub, secretOf(24), durationpb.New(time.Minute))
		got := must[*fanfarev1.Subscription](w)(w.subscriptions.GetSubscription(w.Context(), &fanfarev1.GetSubscriptionRequest{Name: sub.GetName()}))
		if got.GetSigning().GetScheme() != "standard" || len(got.GetPublicKeys()) != 2 || got.Secret != nil {
			w.Errorf("after it: %v", got)
		}
		<-time.After(time.Minute)
		one := w.do("GET", "/v1/"+tenant+"/keys?subscription="+strings.TrimPrefix(sub.GetName(), tenant+"/subscriptions/"), "")
		if got := one.list(w, "keys"); len(got) != 0 {
			w.Errorf("keys when the grace has passed: %s", one.body)
		}
	})
}

// The example of RFC 8037, appendices A.2 and A.3.
func TestThumbprint(t *testing.T) {
	inWorld(t, func(w *world) {
		const private = "whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="
		sub := must[*fanfarev1.Subscription](w)(w.subscriptions.CreateSubscription(w.Context(), &fanfarev1.CreateSubscriptionRequest{
			Parent: tenant, Subscription: &fanfarev1.Subscription{Url: "https://example.com", Secret: new(private)},
		}))
		if sub.GetSigning().GetScheme() != "standard-ed25519" {
			w.Errorf("the scheme is %v", sub.GetSigning())
		}
		keys := must[*fanfarev1.ListSigningKeysResponse](w)(w.subscriptions.ListSigningKeys(w.Context(), &fanfarev1.ListSigningKeysRequest{Parent: tenant}))
		got := keys.GetKeys()[0]
		if got.GetX() != "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" || got.GetKid() != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" {
			w.Errorf("got %v", got)
		}
	})
}

func TestSigningIsChecked(t *testing.T) {
	inWorld(t, func(w *world) {
		hmac := func(change func(*fanfarev1.HmacSigning)) *fanfarev1.Signing {
			h := &fanfarev1.HmacSigning{Header: "X-Sig"}
			change(h)
			return &fanfarev1.Signing{Scheme: "hmac", Hmac: h}
		}
		for _, test := range []struct {
			signing *fanfarev1.Signing
			secret  string
			field   string
		}{
			{&fanfarev1.Signing{Scheme: "rot13"}, "", "signing.scheme"},
			{&fanfarev1.Signing{Scheme: "github", Hmac: &fanfarev1.HmacSigning{Header: "X-Sig"}}, "", "signing.hmac"},
			{&fanfarev1.Signing{Scheme: "hmac"}, "", "signing.hmac.header"},
			{hmac(func(h *fanfarev1.HmacSigning) { h.Header = "Host" }), "", "signing.hmac.header"},
			{hmac(func(h *fanfarev1.HmacSigning) { h.Algorithm = "md5" }), "", "signing.hmac.algorithm"},
			{hmac(func(h *fanfarev1.HmacSigning) { h.Encoding = "rot13" }), "", "signing.hmac.encoding"},
			{hmac(func(h *fanfarev1.HmacSigning) { h.Content = "{id}" }), "", "signing.hmac.content"},
			{hmac(func(h *fanfarev1.HmacSigning) { h.TimestampHeader = "a b" }), "", "signing.hmac.timestamp_header"},
			{&fanfarev1.Signing{Scheme: "standard-ed25519"}, secretOf(24), "secret"},
			{&fanfarev1.Signing{Scheme: "stripe"}, "whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=", "secret"},
		} {
			given := &fanfarev1.Subscription{Url: "https://example.com", Signing: test.signing}
			if test.secret != "" {
				given.Secret = new(test.secret)
			}
			_, err := w.subscriptions.CreateSubscription(w.Context(), &fanfarev1.CreateSubscriptionRequest{Parent: tenant, Subscription: given})
			w.refused(test.signing.String(), err, codes.InvalidArgument, "subscription."+test.field)
		}
	})
}

// A change of the scheme keeps the secret if it serves, and makes a new one if
// it does not.
func TestUpdateOfTheScheme(t *testing.T) {
	inWorld(t, func(w *world) {
		sub := w.subscribe(tenant)
		to := func(scheme string) {
			w.Helper()
			must[*fanfarev1.Subscription](w)(w.subscriptions.UpdateSubscription(w.Context(), &fanfarev1.UpdateSubscriptionRequest{
				Subscription: &fanfarev1.Subscription{Name: sub.GetName(), Signing: &fanfarev1.Signing{Scheme: scheme}},
			}))
		}
		to("github")
		to("stripe")
		to("standard")
		if got := w.secretsOf(sub); !slices.Equal(got, []string{sub.GetSecret()}) {
			w.Errorf("the secret has become %q", got)
		}
		to("standard-ed25519")
		private := w.secretsOf(sub)
		if len(private) != 1 || !strings.HasPrefix(private[0], "whsk_") {
			w.Errorf("for ed25519 the secret is %q", private)
		}
		to("github")
		if got := w.secretsOf(sub); len(got) != 1 || !strings.HasPrefix(got[0], "whsec_") {
			w.Errorf("then it is %q", got)
		}
	})
}

// In JSON, hmac and all.
func TestSigningOverHTTP(t *testing.T) {
	inWorld(t, func(w *world) {
		const signing = `{"scheme":"hmac","hmac":{"header":"X-Sig","algorithm":"sha512","encoding":"base64","prefix":"","timestampHeader":"X-Time","content":"{timestamp}{body}"}}`
		created := w.do("POST", "/v1/"+tenant+"/subscriptions", `{"url":"https://example.com","secret":"correct-horse-battery","signing":`+signing+`}`).object(w)
		var want any
		if err := json.Unmarshal([]byte(signing), &want); err != nil {
			w.Fatal(err)
		}
		if diff := cmp.Diff(want, created["signing"]); diff != "" || created["secret"] != "correct-horse-battery" {
			w.Errorf("created %v: %s", created, diff)
		}
		name, _ := created["name"].(string)
		rotated := w.do("POST", "/v1/"+name+"/secret:rotate", `{"grace":"3600s"}`)
		if got := rotated.list(w, "secrets"); len(got) != 2 || got[1]["secret"] != "correct-horse-battery" {
			w.Errorf("rotated: %s", rotated.body)
		}
	})
}
