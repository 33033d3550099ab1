package serve_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// consents has the endpoint answer what it is asked for its consent.
func (e *testedEndpoint) consents(allowed uint32, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.allowed, e.refusal = allowed, err
}

// asked returns where consent was asked for, in the name of whom, and how often.
func (e *testedEndpoint) asked() (url, origin string, count int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.handshakes) == 0 {
		return "", "", 0
	}
	last := e.handshakes[len(e.handshakes)-1]
	return last.url, last.origin, len(e.handshakes)
}

func (w *world) create(parent string, sub *fanfarev1.Subscription) (*fanfarev1.Subscription, error) {
	if sub.GetUrl() == "" {
		sub.Url = "https://example.com/hook"
	}
	return w.subscriptions.CreateSubscription(w.Context(), &fanfarev1.CreateSubscriptionRequest{Parent: parent, Subscription: sub})
}

func (w *world) update(sub *fanfarev1.Subscription, paths ...string) (*fanfarev1.Subscription, error) {
	return w.subscriptions.UpdateSubscription(w.Context(), &fanfarev1.UpdateSubscriptionRequest{
		Subscription: sub, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths},
	})
}

// An endpoint that does not consent is not subscribed, nor moved to; what it
// allows is kept.
func TestHandshake(t *testing.T) {
	inWorld(t, func(w *world) {
		w.tested.consents(0, errors.New("the endpoint answered 403 without WebHook-Allowed-Origin"))
		_, err := w.create(tenant, &fanfarev1.Subscription{Handshake: &fanfarev1.WebhookHandshake{}})
		w.refused("no consent", err, codes.FailedPrecondition, "subscription.handshake")
		_, err = w.create(tenant, &fanfarev1.Subscription{Handshake: &fanfarev1.WebhookHandshake{RequestsPerMinute: 6_000_001}})
		w.refused("too high a rate", err, codes.InvalidArgument, "subscription.handshake.requests_per_minute")
		if got := w.do("GET", "/v1/"+tenant+"/subscriptions", "").list(w, "subscriptions"); len(got) != 0 {
			w.Errorf("subscribed without consent: %v", got)
		}

		w.tested.consents(90, nil)
		answer := w.do("POST", "/v1/"+tenant+"/subscriptions", `{"url":"https://example.com/hook",
			"handshake":{"requestsPerMinute":120,"allowedRequestsPerMinute":999999,"origin":"mine"}}`).object(w)
		shake, _ := answer["handshake"].(map[string]any)
		if shake["origin"] != "fanfare" || shake["requestsPerMinute"] != 120.0 || shake["allowedRequestsPerMinute"] != 90.0 || shake["grantTime"] == nil {
			w.Errorf("over HTTP the consent is %v", shake)
		}
		name, _ := answer["name"].(string)
		if url, origin, count := w.tested.asked(); url != "https://example.com/hook" || origin != "fanfare" || count != 2 {
			w.Errorf("asked %s as %s, %d times", url, origin, count)
		}

		// What concerns the consent asks anew, and nothing else does.
		sub := must[*fanfarev1.Subscription](w)(w.update(&fanfarev1.Subscription{Name: name, Description: "d"}, "description"))
		sub.Url = "https://other.example.com/hook"
		w.tested.consents(0, errors.New("no"))
		_, err = w.update(sub, "url")
		w.refused("moved to one that does not consent", err, codes.FailedPrecondition, "subscription.handshake")
		w.tested.consents(30, nil)
		sub = must[*fanfarev1.Subscription](w)(w.update(sub, "url"))
		if url, _, count := w.tested.asked(); url != "https://other.example.com/hook" || count != 4 || sub.GetHandshake().GetAllowedRequestsPerMinute() != 30 {
			w.Errorf("asked %s, %d times; granted %v", url, count, sub.GetHandshake())
		}
		w.tested.consents(0, nil)
		w.do("PATCH", "/v1/"+name, `{"handshake":{"requestsPerMinute":10}}`)
		sub = must[*fanfarev1.Subscription](w)(w.subscriptions.GetSubscription(w.Context(), &fanfarev1.GetSubscriptionRequest{Name: name}))
		if got := sub.GetHandshake(); got.GetRequestsPerMinute() != 10 || got.GetAllowedRequestsPerMinute() != 0 {
			w.Errorf("asked again: %v", got)
		}
		sub = must[*fanfarev1.Subscription](w)(w.update(&fanfarev1.Subscription{Name: name}, "handshake"))
		if _, _, count := w.tested.asked(); sub.GetHandshake() != nil || count != 5 {
			w.Errorf("without a handshake: %v, asked %d times", sub.GetHandshake(), count)
		}
	})
}

// What was found out about an endpoint holds for the subscription of which it
// was found out.
func TestMeetingOfAnotherSubscription(t *testing.T) {
	inWorld(t, func(w *world) {
		sub := must[*fanfarev1.Subscription](w)(w.create(tenant, &fanfarev1.Subscription{Verification: "ping"}))
		w.tested.answers(func(*fanfarev1.Event) (int32, string) {
			must[*fanfarev1.Subscription](w)(w.update(&fanfarev1.Subscription{Name: sub.GetName(), Description: "meanwhile"}, "description"))
			return 200, ""
		})
		_, err := w.update(&fanfarev1.Subscription{Name: sub.GetName(), Url: "https://example.com/other"}, "url")
		w.refused("changed meanwhile", err, codes.Aborted, "etag")
		w.tested.answers(nil)
		must[*fanfarev1.Subscription](w)(w.update(&fanfarev1.Subscription{Name: sub.GetName(), Url: "https://example.com/other"}, "url"))
	})
}

// A tenant's verification is its subscriptions', which may ask for more, and
// for less only where the tenant allows it.
func TestTenantVerification(t *testing.T) {
	const acme = "tenants/acme"
	inWorld(t, func(w *world) {
		_, err := w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{
			TenantId: "acme", Tenant: &fanfarev1.Tenant{Verification: "none"},
		})
		w.refused("a way that is none", err, codes.InvalidArgument, "tenant.verification")
		must[*fanfarev1.Tenant](w)(w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{TenantId: "acme"}))
		before := must[*fanfarev1.Subscription](w)(w.create(acme, &fanfarev1.Subscription{}))

		for _, test := range []struct {
			tenant  string
			weaker  bool
			own     string
			want    string // the event's type; empty: nothing is sent
			refused bool
		}{
			{"", false, "", "", false},
			{"", false, "none", "", false},
			{"", false, "ping", "fanfare.ping", false},
			{"ping", false, "", "fanfare.ping", false},
			{"ping", false, "none", "", true},
			{"ping", true, "none", "", false},
			{"ping", true, "", "fanfare.ping", false},
			{"ping", false, "challenge", "fanfare.challenge", false},
			{"challenge", false, "ping", "", true},
			{"challenge", true, "ping", "fanfare.ping", false},
			{"challenge", false, "", "fanfare.challenge", false},
		} {
			must[*fanfarev1.Tenant](w)(w.tenants.UpdateTenant(w.Context(), &fanfarev1.UpdateTenantRequest{
				Tenant:     &fanfarev1.Tenant{Name: acme, Verification: test.tenant, AllowWeakerVerification: test.weaker},
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"verification", "allow_weaker_verification"}},
			}))
			w.tested.answers(func(e *fanfarev1.Event) (int32, string) { return 200, string(e.GetData()) })
			_, _, count := w.tested.last()
			_, err := w.create(acme, &fanfarev1.Subscription{Verification: test.own})
			if test.refused {
				w.refused("created: "+test.tenant+" "+test.own, err, codes.FailedPrecondition, "subscription.verification")
				_, err = w.update(&fanfarev1.Subscription{Name: before.GetName(), Verification: test.own}, "verification")
				w.refused("updated: "+test.tenant+" "+test.own, err, codes.FailedPrecondition, "subscription.verification")
				continue
			}
			w.answered("created: "+test.tenant+" "+test.own, err, codes.OK, "")
			_, event, after := w.tested.last()
			if sent := after - count; sent != min(1, len(test.want)) || sent == 1 && event.GetType() != test.want {
				w.Errorf("tenant %q, subscription %q: %d requests, the last %s", test.tenant, test.own, sent, event.GetType())
			}
		}

		// What was there before is verified when it moves.
		w.tested.answers(func(*fanfarev1.Event) (int32, string) { return 404, "" })
		must[*fanfarev1.Subscription](w)(w.update(&fanfarev1.Subscription{Name: before.GetName(), Description: "d"}, "description"))
		_, err = w.update(&fanfarev1.Subscription{Name: before.GetName(), Url: "https://example.com/other"}, "url")
		w.refused("moved", err, codes.FailedPrecondition, "subscription.url")

		w.do("PATCH", "/v1/"+acme, `{"verification":""}`)
		if got := w.do("PATCH", "/v1/"+acme+"?updateMask=verification", `{"verification":"ping"}`).object(w); got["verification"] != "ping" {
			w.Errorf("over HTTP: %v", got)
		}
	})
}

// Credentials were given for one host: another is shown them only if somebody
// says so.
func TestMoveToAnotherHost(t *testing.T) {
	inWorld(t, func(w *world) {
		made := func(headers bool, authentication *fanfarev1.Authentication) *fanfarev1.Subscription {
			sub := &fanfarev1.Subscription{Url: "https://example.com/hook", Authentication: authentication}
			if headers {
				sub.Headers = map[string]string{"X-Api-Key": "hidden-key"}
			}
			return must[*fanfarev1.Subscription](w)(w.create(tenant, sub))
		}
		const other = "https://other.example.com/hook"
		for _, test := range []struct {
			name    string
			sub     *fanfarev1.Subscription
			change  *fanfarev1.Subscription
			paths   []string
			keep    bool
			refused string // which credentials the error names
		}{
			{"another path", made(true, bearer("hidden-token")), &fanfarev1.Subscription{Url: "https://EXAMPLE.com:443/b"}, []string{"url"}, false, ""},
			{"nothing to show", made(false, nil), &fanfarev1.Subscription{Url: other}, []string{"url"}, false, ""},
			{"headers", made(true, nil), &fanfarev1.Subscription{Url: other}, []string{"url"}, false, "headers"},
			{"another port", made(true, nil), &fanfarev1.Subscription{Url: "https://example.com:8443/hook"}, []string{"url"}, false, "headers"},
			{"authentication", made(false, bearer("hidden-token")), &fanfarev1.Subscription{Url: other}, []string{"url"}, false, "authentication"},
			{"both", made(true, basic("a", "hidden-password")), &fanfarev1.Subscription{Url: other}, []string{"url"}, false, "headers and authentication"},
			{"sent back masked", made(true, bearer("hidden-token")), &fanfarev1.Subscription{
				Url: other, Headers: map[string]string{"X-Api-Key": "***"}, Authentication: bearer("***"),
			}, []string{"*"}, false, "headers and authentication"},
			{"given anew", made(true, bearer("hidden-token")), &fanfarev1.Subscription{
				Url: other, Headers: map[string]string{"X-Api-Key": "new-key"}, Authentication: bearer("new-token"),
			}, []string{"url", "headers", "authentication"}, false, ""},
			{"one of two anew", made(true, bearer("hidden-token")), &fanfarev1.Subscription{
				Url: other, Authentication: bearer("new-token"),
			}, []string{"url", "authentication"}, false, "headers"},
			{"taken away", made(true, bearer("hidden-token")), &fanfarev1.Subscription{Url: other}, []string{"url", "headers", "authentication"}, false, ""},
			{"kept", made(true, bearer("hidden-token")), &fanfarev1.Subscription{Url: other}, []string{"url"}, true, ""},
			{"kept masked", made(true, bearer("hidden-token")), &fanfarev1.Subscription{
				Url: other, Headers: map[string]string{"X-Api-Key": "***"}, Authentication: bearer("***"),
			}, []string{"url", "headers", "authentication"}, true, ""},
		} {
			test.change.Name = test.sub.GetName()
			_, err := w.subscriptions.UpdateSubscription(w.Context(), &fanfarev1.UpdateSubscriptionRequest{
				Subscription: test.change, UpdateMask: &fieldmaskpb.FieldMask{Paths: test.paths}, KeepCredentials: test.keep,
			})
			if test.refused != "" {
				w.refused(test.name, err, codes.FailedPrecondition, "subscription.url")
				if !strings.Contains(err.Error(), "the "+test.refused+" given for") || strings.Contains(err.Error(), "hidden") {
					w.Errorf("%s: %v", test.name, err)
				}
				continue
			}
			w.answered(test.name, err, codes.OK, "")
			if test.keep {
				must[*fanfarev1.SendTestResponse](w)(w.subscriptions.SendTest(w.Context(), &fanfarev1.SendTestRequest{Name: test.sub.GetName()}))
				endpoint, _, _ := w.tested.last()
				if got := endpoint.GetCredentials(); got.GetHeaders()["X-Api-Key"] != "hidden-key" || got.GetAuthentication().GetBearer().GetToken() != "hidden-token" {
					w.Errorf("%s: sent with %v", test.name, got)
				}
			}
		}
		sub := made(true, nil)
		w.refusedHTTP("over HTTP", w.do("PATCH", "/v1/"+sub.GetName(), `{"url":"`+other+`"}`), 400, "subscription.url")
		if got := w.do("PATCH", "/v1/"+sub.GetName()+"?keepCredentials=true", `{"url":"`+other+`"}`); got.code != 200 {
			w.Errorf("kept over HTTP: %d %s", got.code, got.body)
		}
	})
}
