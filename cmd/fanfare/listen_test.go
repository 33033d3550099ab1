package main

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/signature"
)

// freeAddress returns an address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	return address
}

// TestListenForwardsWhatIsDelivered compares what the endpoints are sent with
// what is forwarded, over a restart of the whole cluster.
func TestListenForwardsWhatIsDelivered(t *testing.T) {
	folder, address := t.TempDir(), freeAddress(t)
	d := startDev(t, folder, "--grpc-address", address)
	r := newReceiver(t, nil)
	secrets := make(map[string]string) // :: path -> secret
	var listeners []*process
	for i, s := range []*fanfarev1.Subscription{
		{PayloadMode: "standard", Signing: &fanfarev1.Signing{Scheme: "standard-ed25519"}},
		{PayloadMode: "raw", Compression: "gzip"},
		{PayloadMode: "cloudevents-binary"},
		{PayloadMode: "cloudevents-structured"},
	} {
		path := fmt.Sprint("/", i)
		s.Url = r.url + path
		created := d.subscribe(t, s)
		secrets[path] = created.GetSecret()
		l := startProcess(t, "listen", "--address", address, created.GetName(), r.url+"/forwarded"+path, "--brief")
		eventually(t, "it listens", func() bool { return strings.Contains(l.stderr.String(), "Forwarding") })
		listeners = append(listeners, l)
	}
	arrived := func(n int) {
		t.Helper()
		for path := range secrets {
			eventually(t, path+" has arrived twice", func() bool {
				return len(r.webhooks(path)) >= n && len(r.webhooks("/forwarded"+path)) >= n
			})
		}
	}
	d.publish(t, "order.created", "before")
	if _, err := d.events().Publish(t.Context(), &fanfarev1.PublishRequest{Parent: demoTenant, Events: []*fanfarev1.Event{{
		Id: "large", Type: "order.created", Subject: "a space", Source: "/shop", OrderingKey: "k", DataContentType: "text/plain",
		Data: []byte(strings.Repeat("text ", 1000)), Extensions: map[string]string{"shop": "north"},
	}}}); err != nil {
		t.Fatal(err)
	}
	arrived(2)

	d.stop(t)
	d = startDev(t, folder, "--grpc-address", address)
	d.publish(t, "order.paid", "after-1", "after-2")
	arrived(4)
	for _, l := range listeners {
		l.signal(t, syscall.SIGINT)
		if code := l.wait(t); code != exitOK {
			t.Errorf("listen ended with %d: %s", code, l.stderr.String())
		}
	}
	for path, secret := range secrets {
		compareForwarded(t, secret, r.webhooks(path), r.webhooks("/forwarded"+path))
	}
}

// TestListenForwardsOnce wants a delivery forwarded once however often it is
// attempted, once more when it is retried, and what was published while its
// subscription was paused when that is resumed.
func TestListenForwardsOnce(t *testing.T) {
	d := startDev(t, t.TempDir())
	r := newReceiver(t, func(w http.ResponseWriter, request *http.Request) {
		if request.URL.Path == "/broken" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	name := d.subscribe(t, &fanfarev1.Subscription{
		Url: r.url + "/broken", RetrySchedule: []*durationpb.Duration{durationpb.New(time.Second)},
	}).GetName()
	l := startProcess(t, "listen", "--address", d.grpc, name, r.url+"/forwarded", "--brief")
	eventually(t, "it listens", func() bool { return strings.Contains(l.stderr.String(), "Forwarding") })
	forwarded := func() []string {
		var ids []string
		for _, w := range r.webhooks("/forwarded") {
			ids = append(ids, w.id)
		}
		return ids
	}
	await := func(want ...string) {
		t.Helper()
		eventually(t, fmt.Sprint(want, " are forwarded"), func() bool { return len(forwarded()) >= len(want) })
		if diff := cmp.Diff(want, forwarded()); diff != "" {
			t.Error(diff)
		}
	}
	d.publish(t, "order.created", "one")
	eventually(t, "it is given up", func() bool { return d.count(t, name, fanfarev1.Delivery_DEAD) == 1 })
	if n := len(r.webhooks("/broken")); n != 2 {
		t.Errorf("attempted %d times, want 2", n)
	}
	await("one")
	page, err := d.deliveries().ListDeliveries(t.Context(), &fanfarev1.ListDeliveriesRequest{Parent: demoTenant})
	if err != nil {
		t.Fatal(err)
	}
	d.cli(t, "deliveries", "retry", page.GetDeliveries()[0].GetName())
	await("one", "one")
	d.cli(t, "subscriptions", "pause", lastPart(name))
	d.publish(t, "order.created", "two")
	d.cli(t, "subscriptions", "resume", lastPart(name))
	await("one", "one", "two")
	d.stop(t)
}

// What needs no forwarding any more is remembered for as long as it may be
// listed again, and not longer.
func TestListenerForgets(t *testing.T) {
	const each = 10 * time.Millisecond
	l := &listener{seen: make(map[obligation]bool)}
	began := time.Unix(1_700_000_000, 0)
	owed := func(i int) *fanfarev1.Delivery {
		return &fanfarev1.Delivery{Name: fmt.Sprint(i), CreateTime: timestamppb.New(began.Add(time.Duration(i) * each))}
	}
	const many = 50_000
	for i := range many {
		d := owed(i)
		if !l.isNew(d) {
			t.Fatalf("delivery %d is not new", i)
		}
		if l.note(d); l.isNew(d) || l.isNew(owed(i/2)) {
			t.Fatalf("delivery %d is still new, or %d is again", i, i/2)
		}
		if most := 2*int(listenOverlap/each) + largestPage + 2; len(l.seen) > most {
			t.Fatalf("remembers %d after %d, more than %d", len(l.seen), i, most)
		}
	}
	late := owed(many - int(listenOverlap/each)/2) // a retry: the same delivery begins anew
	late.Name = "0"
	if !l.isNew(late) {
		t.Error("what begins out of order is passed over")
	}
}

// compareForwarded wants each of what was sent forwarded once, the same but for
// the time, and signed.
func compareForwarded(t *testing.T, text string, sent, forwarded []webhook) {
	t.Helper()
	secret, err := signature.ParseSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]webhook{sent, forwarded} {
		slices.SortFunc(list, func(a, b webhook) int { return strings.Compare(a.id, b.id) })
	}
	if len(sent) != len(forwarded) {
		t.Fatalf("%d were sent and %d forwarded", len(sent), len(forwarded))
	}
	for i, f := range forwarded {
		if err := signature.Verify([]signature.Secret{secret}, f.header, f.body, f.at, time.Minute); err != nil {
			t.Errorf("%s%s: %v", f.path, f.id, err)
		}
		s := sent[i]
		for _, h := range []webhook{s, f} {
			h.header.Del(signature.HeaderTimestamp)
			h.header.Del(signature.HeaderSignature)
		}
		if diff := cmp.Diff(s.header, f.header); diff != "" {
			t.Errorf("%s: header: %s", f.path, diff)
		}
		if diff := cmp.Diff(string(s.body), string(f.body)); diff != "" {
			t.Errorf("%s: body: %s", f.path, diff)
		}
	}
}
