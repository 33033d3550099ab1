package serve

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// The ways in which an endpoint is verified, and the types of what is sent.
const (
	verifyNothing   = "none"
	verifyPing      = "ping"
	verifyChallenge = "challenge"
	challengeType   = "fanfare.challenge"
	pingType        = "fanfare.ping"
)

// DefaultOrigin is who asks endpoints for their consent, unless Config.Origin
// says otherwise.
const DefaultOrigin = "fanfare"

// maxRequestsPerMinute is what an endpoint may be asked for at most. It is part
// of the API: see subscription_service.proto.
const maxRequestsPerMinute = 60 * maxRate

// checkMeeting says what is wrong with what a subscription says of how its
// endpoint is met for the first time.
func (s *Server) checkMeeting(sub *fanfarev1.Subscription) error {
	if sub.GetVerification() != verifyNothing {
		if err := s.checkVerification("verification", sub.GetVerification()); err != nil {
			return err
		}
	}
	if sub.GetHandshake() == nil {
		return nil
	}
	if asked := sub.GetHandshake().GetRequestsPerMinute(); asked > maxRequestsPerMinute {
		return invalid("handshake.requests_per_minute", "is %d; at most %d are allowed", asked, maxRequestsPerMinute)
	}
	return s.canTest("handshake")
}

func (s *Server) checkVerification(field, way string) error {
	switch way {
	case "":
		return nil
	case verifyPing, verifyChallenge:
		return s.canTest(field)
	}
	return invalid(field, "is %q; expected %s or %s, or nothing", way, verifyChallenge, verifyPing)
}

// strictness orders the ways of verification by how much they ask for.
func strictness(way string) int {
	switch way {
	case verifyPing:
		return 1
	case verifyChallenge:
		return 2
	}
	return 0
}

// verificationOf returns how the endpoint of a subscription is verified, if its
// tenant wants it as it does, which may be nil.
func verificationOf(sub *fanfarev1.Subscription, tenant *fanfarev1.Tenant) string {
	own, wanted := sub.GetVerification(), tenant.GetVerification()
	if own == "" || !tenant.GetAllowWeakerVerification() && strictness(own) < strictness(wanted) {
		return wanted
	}
	return own
}

// checkStrictness says whether a subscription asks its endpoint for less than
// its tenant allows.
func checkStrictness(sub *fanfarev1.Subscription, tenant *fanfarev1.Tenant) error {
	if own := sub.GetVerification(); own != "" && verificationOf(sub, tenant) != own {
		return &Error{
			codes.FailedPrecondition, "verification",
			fmt.Sprintf("is %q, and the tenant wants %q at the least", own, tenant.GetVerification()),
		}
	}
	return nil
}

// consent asks the endpoint of a subscription, whose credentials are in the
// clear, for its consent, if the subscription says so, and returns that; nil if
// it does not.
func (s *Server) consent(ctx context.Context, stored *linkv1.StoredSubscription) (*fanfarev1.WebhookHandshake, error) {
	if stored.GetSubscription().GetHandshake() == nil {
		return nil, nil //nolint:nilnil // not to ask is no error
	}
	now := time.Now()
	endpoint, err := s.endpoint(stored, now)
	if err != nil {
		return nil, err
	}
	granted, err := s.Tester.Handshake(ctx, endpoint, s.Origin)
	if err != nil {
		return nil, &Error{codes.FailedPrecondition, "handshake", "is not granted: " + err.Error()}
	}
	granted.GrantTime = timestamppb.New(now)
	return granted, nil
}

// verify asks an endpoint what a way of verification asks of it.
func (s *Server) verify(ctx context.Context, stored *linkv1.StoredSubscription, way string) error {
	var event *fanfarev1.Event
	challenge := ""
	switch way {
	case verifyChallenge:
		challenge = rand.Text()
		event = &fanfarev1.Event{Type: challengeType, Data: []byte(`{"challenge":"` + challenge + `"}`)}
	case verifyPing:
		event = &fanfarev1.Event{Type: pingType, Data: []byte(`{}`)}
	default:
		return nil
	}
	if err := s.canTest("url"); err != nil {
		return err
	}
	met, err := s.test(ctx, stored, event)
	if err != nil {
		return err
	}
	problem := ""
	switch {
	case met.GetErrorClass() != "":
		problem = "is not verified: " + met.GetError()
	case challenge != "" && !echoes(met.GetResponseBody(), challenge):
		problem = fmt.Sprintf("is not verified: its answer, with status %d, is not the challenge", met.GetStatusCode())
	default:
		return nil
	}
	return &Error{codes.FailedPrecondition, "url", problem}
}

// echoes reports whether an answer is the challenge: all of it, but for white
// space around it, or the member of that name of a JSON object.
func echoes(body []byte, challenge string) bool {
	text := strings.TrimSpace(string(body))
	var object struct {
		Challenge string `json:"challenge"`
	}
	if json.Unmarshal(body, &object) == nil {
		text = object.Challenge
	}
	return subtle.ConstantTimeCompare([]byte(text), []byte(challenge)) == 1
}

// meet asks the endpoint of a subscription that is to be created, whose
// credentials are in the clear, for its consent, which it notes there, and then
// what its verification asks of it.
func (s *Server) meet(ctx context.Context, leader *lead.Leader, stored *linkv1.StoredSubscription) error {
	var tenant *fanfarev1.Tenant
	err := leader.Query(ctx, func(l *ledger.Ledger) { tenant = l.Tenant(ledger.TenantID(stored.GetTenant())) })
	if err != nil {
		return err
	}
	sub := stored.GetSubscription()
	if err := checkStrictness(sub, tenant); err != nil {
		return err
	}
	if sub.Handshake, err = s.consent(ctx, stored); err != nil {
		return err
	}
	return s.verify(ctx, stored, verificationOf(sub, tenant))
}

// met is what an endpoint was asked before an update that depends on it.
type met struct {
	etag      string                      // of the subscription as it was then; empty: nothing was asked
	handshake *fanfarev1.WebhookHandshake // the consent; nil: that was not asked for
}

// meetChanged is meet for a subscription that is to be changed, as far as that
// changes what the endpoint is to be asked. The update itself is made, and
// checked, once more afterwards.
func (s *Server) meetChanged(ctx context.Context, leader *lead.Leader, tenant ledger.TenantID, id string, u update) (found met, err error) {
	if !u.paths["url"] && !u.paths["handshake"] && !u.paths["verification"] {
		return found, nil
	}
	var old *linkv1.StoredSubscription
	var config *fanfarev1.Tenant
	err = leader.Query(ctx, func(l *ledger.Ledger) {
		if sub := l.SubscriptionByID(tenant, id); sub != nil {
			old, config = sub.Stored, l.Tenant(tenant)
		}
	})
	if err != nil || old == nil {
		return found, err // what is wrong with it is said where it is made
	}
	changed, err := s.updated(old, u)
	if err != nil {
		return found, err
	}
	sub := changed.GetSubscription()
	if u.paths["verification"] {
		if err := checkStrictness(sub, config); err != nil {
			return found, err
		}
	}
	moved := old.GetSubscription().GetUrl() != sub.GetUrl()
	asks := moved && verificationOf(sub, config) != "" || (moved || u.paths["handshake"]) && sub.GetHandshake() != nil
	if !asks {
		return found, nil
	}
	found.etag = etagOf(old)
	if err := s.unmask(changed); err != nil {
		return found, err
	}
	if moved || u.paths["handshake"] {
		if found.handshake, err = s.consent(ctx, changed); err != nil {
			return found, err
		}
	}
	if moved {
		err = s.verify(ctx, changed, verificationOf(sub, config))
	}
	return found, err
}

// holds returns an error if the subscription has changed since, and else notes
// the consent in what it becomes.
func (m met) holds(before, after *linkv1.StoredSubscription) error {
	if m.etag == "" {
		return nil
	}
	if m.etag != etagOf(before) {
		return &Error{codes.Aborted, "etag", "is no longer that of the subscription of which the endpoint was asked: it was changed meanwhile"}
	}
	if m.handshake != nil {
		after.Subscription.Handshake = m.handshake
	}
	return nil
}
