package signature_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-dev/fanfare/signature"
)

// vectors are published with Standard Webhooks and its libraries.
var vectors = []struct {
	secret, id string
	timestamp  int64
	body, want string
}{
	{
		"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330,
		`{"test": 2432232314}`, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
	},
	{
		"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1649367553,
		`{"email":"test@example.com","username":"test_user"}`, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
	},
}

func TestPublishedVectors(t *testing.T) {
	for _, vector := range vectors {
		t.Run(vector.id, func(t *testing.T) {
			secret := mustParse(t, vector.secret)
			at := time.Unix(vector.timestamp, 0)
			message := signature.Message{ID: vector.id, Timestamp: at, Body: []byte(vector.body)}
			if got := signature.Sign(message, secret); got != vector.want {
				t.Errorf("Sign = %s, want %s", got, vector.want)
			}
			header := http.Header{}
			header.Set(signature.HeaderID, vector.id)
			header.Set(signature.HeaderTimestamp, time.Unix(vector.timestamp, 0).UTC().Format("20060102"))
			signature.NewSigner(secret).SetHeaders(header, message)
			if got := header.Get(signature.HeaderSignature); got != vector.want {
				t.Errorf("header = %s, want %s", got, vector.want)
			}
			if err := signature.Verify([]signature.Secret{secret}, header, message.Body, at, 0); err != nil {
				t.Errorf("Verify: %v", err)
			}
		})
	}
}

// One Signer signs messages of any size one after another, and several at a
// time, as if each were its first.
func TestSignerIsReusable(t *testing.T) {
	secrets := []signature.Secret{mustParse(t, vectors[0].secret), mustParse(t, vectors[1].secret)}
	signer := signature.NewSigner(secrets...)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for size := range 300 {
				message := signature.Message{
					ID:        strings.Repeat("x", size%40),
					Timestamp: time.Unix(int64(size), 0),
					Body:      bytes.Repeat([]byte{'b'}, size),
				}
				got := string(signer.Append([]byte("before "), message))
				want := "before " + signature.Sign(message, secrets[0]) + " " + signature.Sign(message, secrets[1])
				if got != want {
					t.Errorf("size %d: got %s, want %s", size, got, want)
				}
			}
		})
	}
	group.Wait()
}

func TestSetHeadersReplaces(t *testing.T) {
	secret := mustParse(t, vectors[0].secret)
	message := signature.Message{ID: "a", Timestamp: time.Unix(7, 999), Body: nil}
	header := http.Header{"Webhook-Id": {"old", "older"}, "Content-Type": {"application/json"}}
	signature.NewSigner(secret).SetHeaders(header, message)
	want := http.Header{
		"Content-Type":      {"application/json"},
		"Webhook-Id":        {"a"},
		"Webhook-Timestamp": {"7"},
		"Webhook-Signature": {signature.Sign(message, secret)},
	}
	if diff := cmp.Diff(want, header); diff != "" {
		t.Error(diff)
	}
	header.Add(signature.HeaderID, "b")
	if got := header.Get(signature.HeaderTimestamp); got != "7" {
		t.Errorf("adding to one header changed another: %s", got)
	}
}

func TestVerify(t *testing.T) {
	current := mustParse(t, vectors[0].secret)
	previous := mustParse(t, vectors[1].secret)
	now := time.Unix(1700000000, 400_000_000)
	body := []byte(`{"type":"order.created"}`)
	type request struct {
		header  http.Header
		body    []byte
		secrets []signature.Secret
		now     time.Time
	}
	set := func(name, value string) func(*request) {
		return func(r *request) { r.header.Set(name, value) }
	}
	clock := func(d time.Duration) func(*request) {
		return func(r *request) { r.now = r.now.Add(d) }
	}
	secrets := func(list ...signature.Secret) func(*request) {
		return func(r *request) { r.secrets = list }
	}
	good := signature.Sign(signature.Message{ID: "evt_1", Timestamp: now, Body: body}, current)
	other := signature.Sign(signature.Message{ID: "evt_1", Timestamp: now, Body: body}, previous)
	bare := strings.TrimPrefix(good, "v1,")
	raw, err := base64.StdEncoding.DecodeString(bare)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*request)
		want   error // nil: verified
	}{
		{"as signed", func(*request) {}, nil},
		{"several secrets", secrets(previous, current), nil},
		{"several signatures", set("webhook-signature", other+" "+good), nil},
		{"unknown versions are passed over", set("webhook-signature", "v1a,abc v2,"+bare+" "+good+" v9"), nil},
		{"wide spacing", set("webhook-signature", "  "+other+"   "+good+"  "), nil},
		{"same signature twice", set("webhook-signature", good+" "+good), nil},
		{"same secret twice", secrets(current, current), nil},
		{"oldest tolerated", clock(5 * time.Minute), nil},
		{"newest tolerated", clock(-5 * time.Minute), nil},
		{"too old", clock(5*time.Minute + time.Second), signature.ErrTooOld},
		{"too new", clock(-5*time.Minute - time.Second), signature.ErrTooNew},
		{"no timestamp", set("webhook-timestamp", ""), &signature.MissingHeaderError{Header: "webhook-timestamp"}},
		{"no id", set("webhook-id", ""), &signature.MissingHeaderError{Header: "webhook-id"}},
		{"no signature", set("webhook-signature", ""), &signature.MissingHeaderError{Header: "webhook-signature"}},
		{"nothing", func(r *request) { r.header = nil }, &signature.MissingHeaderError{Header: "webhook-id"}},
		{"timestamp in words", set("webhook-timestamp", "today"), signature.ErrTimestamp},
		{"timestamp with sign", set("webhook-timestamp", "+1700000000"), signature.ErrTimestamp},
		{"negative timestamp", set("webhook-timestamp", "-1700000000"), signature.ErrTimestamp},
		{"timestamp with zeros", set("webhook-timestamp", "01700000000"), signature.ErrTimestamp},
		{"timestamp with fraction", set("webhook-timestamp", "1700000000.4"), signature.ErrTimestamp},
		{"timestamp with space", set("webhook-timestamp", "1700000000 "), signature.ErrTimestamp},
		{"timestamp with underscore", set("webhook-timestamp", "1_700_000_000"), signature.ErrTimestamp},
		{"timestamp in milliseconds", set("webhook-timestamp", "1700000000400"), signature.ErrTimestamp},
		{"timestamp beyond int64", set("webhook-timestamp", strings.Repeat("9", 30)), signature.ErrTimestamp},
		// The age is more than a Duration holds; its opposite once overflowed.
		{"timestamp of a far age", set("webhook-timestamp", "999999999999"), signature.ErrTooNew},
		{"timestamp zero", set("webhook-timestamp", "0"), signature.ErrTooOld},
		{"other timestamp", set("webhook-timestamp", "1700000001"), signature.ErrNoMatch},
		{"other id", set("webhook-id", "evt_2"), signature.ErrNoMatch},
		{"other body", func(r *request) { r.body = append([]byte(" "), r.body...) }, signature.ErrNoMatch},
		{"no body", func(r *request) { r.body = nil }, signature.ErrNoMatch},
		{"other secret", secrets(previous), signature.ErrNoMatch},
		{"no secret", secrets(), signature.ErrNoMatch},
		{"zero secret", secrets(signature.Secret{}), signature.ErrNoMatch},
		{"zero secret, empty signature", func(r *request) {
			r.secrets = []signature.Secret{{}}
			r.header.Set("webhook-signature", " ")
		}, signature.ErrNoMatch},
		{"signature without version", set("webhook-signature", bare), signature.ErrNoMatch},
		{"version only", set("webhook-signature", "v1,"), signature.ErrNoMatch},
		{"other version", set("webhook-signature", "v2,"+bare), signature.ErrNoMatch},
		{"other case", set("webhook-signature", strings.ToLower(good)), signature.ErrNoMatch},
		{"cut short", set("webhook-signature", good[:len(good)-1]), signature.ErrNoMatch},
		{"longer", set("webhook-signature", good+"="), signature.ErrNoMatch},
		{"commas between", set("webhook-signature", other+","+good), signature.ErrNoMatch},
		{"url alphabet", set("webhook-signature", "v1,"+base64.RawURLEncoding.EncodeToString(raw)), signature.ErrNoMatch},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := request{header: http.Header{}, body: body, secrets: []signature.Secret{current}, now: now}
			r.header.Set("webhook-id", "evt_1")
			r.header.Set("webhook-timestamp", "1700000000")
			r.header.Set("webhook-signature", good)
			before := maps.Clone(r.header)
			test.change(&r)
			err := signature.Verify(r.secrets, r.header, r.body, r.now, 0)
			if missing, ok := errors.AsType[*signature.MissingHeaderError](test.want); ok {
				got, ok := errors.AsType[*signature.MissingHeaderError](err)
				if !ok || got.Header != missing.Header {
					t.Errorf("got error %v, want %v", err, missing)
				}
				return
			}
			if !errors.Is(err, test.want) {
				t.Errorf("got error %v, want %v", err, test.want)
			}
			if test.name == "as signed" && !cmp.Equal(before, r.header) {
				t.Error("Verify changed the header")
			}
		})
	}
}

func TestVerifyTolerance(t *testing.T) {
	secret := mustParse(t, vectors[0].secret)
	at := time.Unix(1700000000, 0)
	header := http.Header{}
	signature.NewSigner(secret).SetHeaders(header, signature.Message{ID: "a", Timestamp: at})
	verify := func(now time.Time, tolerance time.Duration) error {
		return signature.Verify([]signature.Secret{secret}, header, nil, now, tolerance)
	}
	if err := verify(at.Add(time.Hour), time.Hour); err != nil {
		t.Errorf("an hour is tolerated: %v", err)
	}
	if err := verify(at.Add(2*time.Second), time.Second); !errors.Is(err, signature.ErrTooOld) {
		t.Errorf("got %v, want too old", err)
	}
	if err := verify(at, -time.Second); err == nil {
		t.Error("a negative tolerance tolerates something")
	}
}

func FuzzVerify(f *testing.F) {
	f.Add("evt_1", "1700000000", "v1,abc", []byte("{}"))
	f.Add("", "0", " v1, v1a,x", []byte(nil))
	f.Add("a.b", "-1", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", []byte("x"))
	secret := mustParse(f, vectors[0].secret)
	now := time.Unix(1700000000, 0)
	f.Fuzz(func(t *testing.T, id, timestamp, value string, body []byte) {
		header := http.Header{
			"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {value},
		}
		if err := signature.Verify([]signature.Secret{secret}, header, body, now, 0); err == nil {
			t.Fatalf("verified without the secret: %q %q %q", id, timestamp, value)
		}
		message := signature.Message{ID: id, Timestamp: now, Body: body}
		signature.NewSigner(secret).SetHeaders(header, message)
		header.Set(signature.HeaderSignature, value+" "+header.Get(signature.HeaderSignature))
		err := signature.Verify([]signature.Secret{secret}, header, body, now, 0)
		if id == "" {
			if _, ok := errors.AsType[*signature.MissingHeaderError](err); !ok {
				t.Fatalf("got %v without an id", err)
			}
			return
		}
		if err != nil {
			t.Fatalf("a good signature behind %q is not found: %v", value, err)
		}
	})
}

func BenchmarkSigner(b *testing.B) {
	for _, size := range []int{256, 4 << 10} {
		b.Run(map[int]string{256: "256B", 4 << 10: "4KiB"}[size], func(b *testing.B) {
			signer := signature.NewSigner(mustParse(b, vectors[0].secret))
			message := signature.Message{ID: vectors[0].id, Timestamp: time.Unix(1700000000, 0), Body: make([]byte, size)}
			dst := make([]byte, 0, 256)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				dst = signer.Append(dst[:0], message)
			}
		})
	}
}

func BenchmarkSetHeaders(b *testing.B) {
	signer := signature.NewSigner(mustParse(b, vectors[0].secret))
	message := signature.Message{ID: vectors[0].id, Timestamp: time.Unix(1700000000, 0), Body: make([]byte, 256)}
	header := http.Header{}
	b.ReportAllocs()
	for b.Loop() {
		signer.SetHeaders(header, message)
	}
}

func BenchmarkVerify(b *testing.B) {
	secrets := []signature.Secret{mustParse(b, vectors[0].secret)}
	now := time.Unix(1700000000, 0)
	message := signature.Message{ID: vectors[0].id, Timestamp: now, Body: make([]byte, 256)}
	header := http.Header{}
	signature.NewSigner(secrets...).SetHeaders(header, message)
	b.ReportAllocs()
	for b.Loop() {
		if err := signature.Verify(secrets, header, message.Body, now, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// The signing path is on every attempt: it must not allocate.
func TestAppendDoesNotAllocate(t *testing.T) {
	signer := signature.NewSigner(mustParse(t, vectors[0].secret), mustParse(t, vectors[1].secret))
	message := signature.Message{ID: vectors[0].id, Timestamp: time.Unix(1700000000, 0), Body: make([]byte, 256)}
	dst := make([]byte, 0, 256)
	if got := testing.AllocsPerRun(100, func() { dst = signer.Append(dst[:0], message) }); got != 0 {
		t.Errorf("Append allocates %v times", got)
	}
}
