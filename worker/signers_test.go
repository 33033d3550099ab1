package worker

import (
	"errors"
	"net/http"
	"testing"
	"time"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/signature"
)

// A secret signs until its time is over, by the worker's clock, whether or not
// anybody tells the worker; and again if the clock is set back.
func TestSignersDropWhatHasEnded(t *testing.T) {
	begin := time.UnixMilli(1_700_000_000_000)
	s, err := newSigners(&linkv1.Endpoint{
		Secrets:                 []string{testSecret, otherSecret},
		SecretExpireTimesUnixMs: []int64{0, begin.Add(time.Hour).UnixMilli()},
	})
	if err != nil {
		t.Fatal(err)
	}
	by := func(at time.Time) (list []bool) {
		t.Helper()
		signer, err := s.at(at)
		if err != nil {
			t.Fatal(err)
		}
		header, body := http.Header{}, []byte("{}")
		signer.SetHeaders(header, signature.Message{ID: "evt_1", Timestamp: at, Body: body})
		for _, text := range []string{testSecret, otherSecret} {
			secret, err := signature.ParseSecret(text)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, signature.Verify([]signature.Secret{secret}, header, body, at, 0) == nil)
		}
		return list
	}
	for _, step := range []struct {
		after time.Duration
		old   bool
	}{{0, true}, {time.Hour - time.Millisecond, true}, {time.Hour, false}, {48 * time.Hour, false}, {time.Minute, true}} {
		if got := by(begin.Add(step.after)); !got[0] || got[1] != step.old {
			t.Errorf("after %v the new and the old sign: %v; want the old: %v", step.after, got, step.old)
		}
	}
}

func TestSignersRefuse(t *testing.T) {
	for name, test := range map[string]struct {
		endpoint *linkv1.Endpoint
		want     error
	}{
		"none":           {&linkv1.Endpoint{}, errNoSecret},
		"malformed":      {&linkv1.Endpoint{Secrets: []string{"whsec_?"}}, signature.ErrSecret},
		"unknown scheme": {&linkv1.Endpoint{Secrets: []string{testSecret}, Subscription: &fanfarev1.Subscription{Signing: &fanfarev1.Signing{Scheme: "x"}}}, nil},
	} {
		if _, err := newSigners(test.endpoint); err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ended, err := newSigners(&linkv1.Endpoint{Secrets: []string{testSecret}, SecretExpireTimesUnixMs: []int64{1}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ended.at(time.Now()); !errors.Is(err, errNoSecret) {
		t.Errorf("with a secret that has ended: %v", err)
	}
}
