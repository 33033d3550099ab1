package worker

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// What is kept of an endpoint becomes the target that it would have become at
// once, as often as it is asked for.
func TestRouteMakesTarget(t *testing.T) {
	for name, change := range map[string]func(*linkv1.Endpoint){
		"plain":            func(*linkv1.Endpoint) {},
		"no subscription":  func(e *linkv1.Endpoint) { e.Subscription = nil },
		"no secret":        func(e *linkv1.Endpoint) { e.Secrets = nil },
		"two secrets":      func(e *linkv1.Endpoint) { e.Secrets = append(e.Secrets, "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz") },
		"a URL with flaws": func(e *linkv1.Endpoint) { e.Subscription.Url = "https://hook.test:x/" },
		"unknown mode":     func(e *linkv1.Endpoint) { e.Subscription.PayloadMode = "telegraph" },
		"unknown mode of a batch": func(e *linkv1.Endpoint) {
			e.Subscription.PayloadMode, e.Subscription.BatchCount = "telegraph", 10
		},
		"settings": func(e *linkv1.Endpoint) {
			s := e.GetSubscription()
			s.Timeout, s.RetrySchedule = durationpb.New(time.Second), []*durationpb.Duration{durationpb.New(time.Minute)}
			s.BatchCount, s.BatchWait, s.Ordering = 10, durationpb.New(time.Second), "key"
			s.Compression, s.OmitTraceContext, s.PayloadMode = "gzip", true, "cloudevents-structured"
			s.Handshake = &fanfarev1.WebhookHandshake{Origin: "example.com"}
		},
		"what only a leader needs": func(e *linkv1.Endpoint) {
			s := e.GetSubscription()
			s.Name, s.Description, s.Etag, s.EventTypes = "tenants/acme/subscriptions/sub_1", "orders", "7", []string{"order.*"}
			s.CreateTime, s.UpdateTime = timestamppb.New(time.Unix(1, 0)), timestamppb.New(time.Unix(2, 0))
		},
		"headers": func(e *linkv1.Endpoint) {
			e.Credentials = &linkv1.Credentials{Headers: map[string]string{"X-Api-Key": "a key of theirs"}}
		},
		"token": func(e *linkv1.Endpoint) { e.Credentials = oauth().GetCredentials() },
		"a certificate that is none": func(e *linkv1.Endpoint) {
			e.Credentials = &linkv1.Credentials{Tls: &fanfarev1.TlsOptions{CaCertificates: "none"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := testEndpoint(3, "https://hook.test/path")
			change(e)
			want := newTarget(proto.CloneOf(e))
			r := newRoute(e)
			if got := hostOf(e.GetSubscription().GetUrl()); r.host != got {
				t.Errorf("host is %q, want %q", r.host, got)
			}
			for range 2 {
				got := r.target()
				if diff := cmp.Diff(want, got, sameTarget()...); diff != "" {
					t.Errorf("target (-want +got):\n%s", diff)
				}
				if again := r.target(); again != got {
					t.Error("it is made anew though it is there")
				}
				r.letGo()
			}
			if diff := cmp.Diff(want.batch, r.batch, cmp.AllowUnexported(batching{})); diff != "" {
				t.Errorf("batch (-want +got):\n%s", diff)
			}
		})
	}
}

// sameTarget compares targets by what they are made of.
func sameTarget() []cmp.Option {
	return []cmp.Option{
		cmp.AllowUnexported(target{}, batching{}, credentials{}),
		cmpopts.IgnoreFields(credentials{}, "tokens"),
		cmp.Comparer(func(a, b error) bool {
			return (a == nil) == (b == nil) && (a == nil || a.Error() == b.Error())
		}),
		cmp.Comparer(func(a, b *signers) bool {
			if a == nil || b == nil {
				return a == b
			}
			if len(a.secrets) != len(b.secrets) {
				return false
			}
			for i := range a.secrets {
				if a.secrets[i].ends != b.secrets[i].ends || !a.secrets[i].secret.Equal(b.secrets[i].secret) {
					return false
				}
			}
			return true
		}),
	}
}

// A token is the endpoint's for its lifetime, and so is what holds it.
func TestRouteKeepsToken(t *testing.T) {
	r := newRoute(oauth())
	before := r.target()
	r.letGo()
	if r.target() != before {
		t.Error("a target with a token is let go")
	}
	r = newRoute(testEndpoint(3, "https://hook.test"))
	before = r.target()
	r.letGo()
	if r.target() == before {
		t.Error("a target without a token is kept")
	}
}

// Only some of those with nothing on the wire have a target: those that were
// used last, and none that fails.
func TestQueuesLetGoOfTargets(t *testing.T) {
	q := newQueues(64)
	q.maxWarm = 3
	for number := range uint64(6) {
		q.put(eid(number), newRoute(testEndpoint(number, "https://hook.test")))
	}
	request := func(number uint64, v verdict) {
		fill(q, number, 1)
		s, ok := q.next(0)
		if !ok || s.id.number != number {
			t.Fatalf("started %v, want one of %d", s, number)
		}
		s.route.target()
		q.done(s.id, v)
	}
	check := func(what string, want ...bool) {
		t.Helper()
		var got []bool
		warmed := 0
		for number := range uint64(6) {
			made := q.endpoints[eid(number)].route.made.Load() != nil
			got = append(got, made)
			if made {
				warmed++
			}
		}
		if diff := cmp.Diff(want, got); diff != "" || warmed != q.warmed.Len() {
			t.Errorf("%s: which have a target (-want +got), %d are noted:\n%s", what, q.warmed.Len(), diff)
		}
	}
	check("nothing was sent", false, false, false, false, false, false)
	for number := range uint64(3) {
		request(number, verdictSuccess)
	}
	check("three were used", true, true, true, false, false, false)
	request(0, verdictAnswered)
	request(5, verdictSuccess)
	check("the least lately used goes", true, false, true, false, false, true)
	request(2, verdictFailing)
	check("one fails", true, false, false, false, false, true)
	request(2, verdictSuccess)
	check("it is well again", true, false, true, false, false, true)

	fill(q, 2, 2)
	for range 2 {
		if s, ok := q.next(0); ok {
			s.route.target()
		}
	}
	q.put(eid(2), newRoute(testEndpoint(2, "https://hook.test")))
	q.done(eid(2), verdictSuccess)
	q.remove(eid(2))
	q.done(eid(2), verdictSuccess)
	q.remove(eid(0))
	if q.warmed.Len() != 1 {
		t.Errorf("%d are noted, want 1", q.warmed.Len())
	}
}
