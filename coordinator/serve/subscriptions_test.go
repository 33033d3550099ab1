package serve_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// secretOf is a secret of so many bytes.
func secretOf(bytes int) string {
	return "whsec_" + map[int]string{
		23: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", 24: strings.Repeat("A", 32), 64: strings.Repeat("A", 86) + "==", 65: strings.Repeat("A", 87) + "=",
	}[bytes]
}

func durations(n int, d time.Duration) []*durationpb.Duration {
	return slices.Repeat([]*durationpb.Duration{durationpb.New(d)}, n)
}

// subscriptionLimits are the limits of a subscription, at the border and over
// it. Creating and updating keep them alike.
func subscriptionLimits() []subscriptionLimit {
	type sub = fanfarev1.Subscription
	const week = 7 * 24 * time.Hour
	return []subscriptionLimit{
		{"url that is not allowed", &sub{Url: "https://denied.example.com"}, "url"},
		{"url of another scheme", &sub{Url: "http://example.com"}, "url"},
		{"100 patterns", &sub{EventTypes: slices.Repeat([]string{"a.*"}, 100)}, ""},
		{"101 patterns", &sub{EventTypes: slices.Repeat([]string{"a.*"}, 101)}, "event_types"},
		{"all kinds of patterns", &sub{EventTypes: []string{"*", "order.created", "order.*", "order.**", "a.*.b"}}, ""},
		{"an empty pattern", &sub{EventTypes: []string{"a", ""}}, "event_types[1]"},
		{"a pattern with half a star", &sub{EventTypes: []string{"order*"}}, "event_types[0]"},
		{"a pattern with ** inside", &sub{EventTypes: []string{"a", "b", "a.**.b"}}, "event_types[2]"},
		{"a pattern of 256", &sub{EventTypes: []string{strings.Repeat("a", 256)}}, ""},
		{"a pattern of 257", &sub{EventTypes: []string{strings.Repeat("a", 257)}}, "event_types[0]"},
		{"description of 1024", &sub{Description: strings.Repeat("d", 1024)}, ""},
		{"description of 1025", &sub{Description: strings.Repeat("d", 1025)}, "description"},
		{"description of 1025 bytes in fewer characters", &sub{Description: strings.Repeat("d", 1023) + "é"}, "description"},
		{"payload standard", &sub{PayloadMode: "standard"}, ""},
		{"payload cloudevents-binary", &sub{PayloadMode: "cloudevents-binary"}, ""},
		{"payload cloudevents-structured", &sub{PayloadMode: "cloudevents-structured"}, ""},
		{"payload raw", &sub{PayloadMode: "raw"}, ""},
		{"another payload", &sub{PayloadMode: "Standard"}, "payload_mode"},
		{"50 waits", &sub{RetrySchedule: durations(50, time.Second)}, ""},
		{"51 waits", &sub{RetrySchedule: durations(51, time.Second)}, "retry_schedule"},
		{"a wait of nothing", &sub{RetrySchedule: durations(1, 0)}, ""},
		{"a wait of less", &sub{RetrySchedule: durations(2, -1)}, "retry_schedule[0]"},
		{"a wait of a week", &sub{RetrySchedule: durations(1, week)}, ""},
		{"a wait of more", &sub{RetrySchedule: append(durations(1, 0), durationpb.New(week+1))}, "retry_schedule[1]"},
		{"a wait that is none", &sub{RetrySchedule: []*durationpb.Duration{{Seconds: 1, Nanos: -1}}}, "retry_schedule[0]"},
		{"timeout of 1 s", &sub{Timeout: durationpb.New(time.Second)}, ""},
		{"timeout of less", &sub{Timeout: durationpb.New(time.Second - 1)}, "timeout"},
		{"timeout of 30 s", &sub{Timeout: durationpb.New(30 * time.Second)}, ""},
		{"timeout of more", &sub{Timeout: durationpb.New(30*time.Second + 1)}, "timeout"},
		{"timeout of nothing", &sub{Timeout: &durationpb.Duration{}}, "timeout"},
		{"secret of 24 bytes", &sub{Secret: new(secretOf(24))}, ""},
		{"secret of 23 bytes", &sub{Secret: new(secretOf(23))}, "secret"},
		{"secret of 64 bytes", &sub{Secret: new(secretOf(64))}, ""},
		{"secret of 65 bytes", &sub{Secret: new(secretOf(65))}, "secret"},
		{"an empty secret", &sub{Secret: new("")}, "secret"},
		{"a secret without its prefix", &sub{Secret: new(strings.Repeat("A", 32))}, "secret"},
		{"a secret that is not base64", &sub{Secret: new("whsec_" + strings.Repeat("!", 32))}, "secret"},
	}
}

type subscriptionLimit struct {
	name  string
	given *fanfarev1.Subscription
	field string // at fault; empty: none
}

func TestSubscriptionLimits(t *testing.T) {
	inWorld(t, func(w *world) {
		stands := w.subscribe(tenant)
		for _, tt := range subscriptionLimits() {
			code, field := codes.OK, ""
			if tt.field != "" {
				code, field = codes.InvalidArgument, "subscription."+tt.field
			}
			create := proto.CloneOf(tt.given)
			if create.GetUrl() == "" {
				create.Url = "https://example.com"
			}
			_, err := w.subscriptions.CreateSubscription(w.Context(), &fanfarev1.CreateSubscriptionRequest{Parent: tenant, Subscription: create})
			w.answered("create: "+tt.name, err, code, field)
			update := proto.CloneOf(tt.given)
			update.Name = stands.GetName()
			_, err = w.subscriptions.UpdateSubscription(w.Context(), &fanfarev1.UpdateSubscriptionRequest{Subscription: update})
			w.answered("update: "+tt.name, err, code, field)
		}
		for name, request := range map[string]*fanfarev1.CreateSubscriptionRequest{
			"no subscription": {Parent: tenant}, "no url": {Parent: tenant, Subscription: &fanfarev1.Subscription{Description: "x"}},
		} {
			_, err := w.subscriptions.CreateSubscription(w.Context(), request)
			w.refused(name, err, codes.InvalidArgument, "subscription.url")
		}
	})
}

// answered is refused where a call may have succeeded.
func (w *world) answered(what string, err error, code codes.Code, field string) {
	w.Helper()
	if code != codes.OK {
		w.refused(what, err, code, field)
	} else if err != nil {
		w.Errorf("%s: %v", what, err)
	}
}

// normal is a subscription without what differs from run to run.
func normal(sub *fanfarev1.Subscription) *fanfarev1.Subscription {
	sub = proto.CloneOf(sub)
	sub.Etag, sub.Secret = "", nil
	return sub
}

// ignoreState leaves out what says whether a subscription is sent to.
func ignoreState() cmp.Option {
	return protocmp.IgnoreFields(&fanfarev1.Subscription{}, "state", "state_reason", "state_time")
}

func TestCreateSubscription(t *testing.T) {
	inWorld(t, func(w *world) {
		now := timestamppb.Now()
		given := &fanfarev1.Subscription{
			Url: "https://example.com/hook?a=b", EventTypes: []string{"order.*", "a"}, Description: "for people",
			PayloadMode: "raw", RetrySchedule: durations(2, time.Second), Timeout: durationpb.New(2 * time.Second),
			Secret: new(secretOf(24)),
			// What only the server says is not taken from a client.
			Name: "tenants/other/subscriptions/mine", CreateTime: &timestamppb.Timestamp{Seconds: 1}, UpdateTime: &timestamppb.Timestamp{Seconds: 2},
			Etag: "mine", Health: &fanfarev1.SubscriptionHealth{OutstandingCount: 7},
		}
		created := must[*fanfarev1.Subscription](w)(w.subscriptions.CreateSubscription(w.Context(),
			&fanfarev1.CreateSubscriptionRequest{Parent: tenant, Subscription: given}))
		id, ok := strings.CutPrefix(created.GetName(), tenant+"/subscriptions/sub_")
		if !ok || len(id) != 26 || created.GetEtag() == "" || created.GetEtag() == "mine" || created.GetSecret() != secretOf(24) {
			w.Errorf("created %v", created)
		}
		want := proto.CloneOf(given)
		want.Name, want.CreateTime, want.UpdateTime, want.Health = created.GetName(), now, now, nil
		options := []cmp.Option{protocmp.Transform(), ignoreState()}
		withoutHealth := proto.CloneOf(created)
		withoutHealth.Health = nil
		if diff := cmp.Diff(normal(want), normal(withoutHealth), options...); diff != "" {
			w.Errorf("created (-want +got):\n%s", diff)
		}

		got := must[*fanfarev1.Subscription](w)(w.subscriptions.GetSubscription(w.Context(), &fanfarev1.GetSubscriptionRequest{Name: created.GetName()}))
		if got.Secret != nil || got.GetEtag() != created.GetEtag() {
			w.Errorf("got the secret %q and the etag %q, want none and %q", got.GetSecret(), got.GetEtag(), created.GetEtag())
		}
		want.Health = &fanfarev1.SubscriptionHealth{}
		if diff := cmp.Diff(normal(want), normal(got), options...); diff != "" {
			w.Errorf("got (-want +got):\n%s", diff)
		}

		least := w.subscribe(tenant)
		if !strings.HasPrefix(least.GetSecret(), "whsec_") || least.GetSecret() == w.subscribe(tenant).GetSecret() || least.GetPayloadMode() != "standard" {
			w.Errorf("made of nothing but a URL: %v", least)
		}
	})
}

func TestSubscriptionNames(t *testing.T) {
	inWorld(t, func(w *world) {
		must[*fanfarev1.Tenant](w)(w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{TenantId: "acme"}))
		sub := w.subscribe(tenant)
		id := strings.TrimPrefix(sub.GetName(), tenant+"/subscriptions/")
		for _, tt := range []struct {
			name string
			code codes.Code
		}{
			{tenant + "/subscriptions/none", codes.NotFound},
			{"tenants/acme/subscriptions/" + id, codes.NotFound},
			{"tenants/nobody/subscriptions/" + id, codes.NotFound},
			{"tenants/default/events/" + id, codes.InvalidArgument},
			{"subscriptions/" + id, codes.InvalidArgument},
			{sub.GetName() + "/x", codes.InvalidArgument},
			{"", codes.InvalidArgument},
		} {
			field := func(name string) string {
				if tt.code == codes.NotFound {
					return ""
				}
				return name
			}
			_, err := w.subscriptions.GetSubscription(w.Context(), &fanfarev1.GetSubscriptionRequest{Name: tt.name})
			w.refused("get "+tt.name, err, tt.code, field("name"))
			_, err = w.subscriptions.DeleteSubscription(w.Context(), &fanfarev1.DeleteSubscriptionRequest{Name: tt.name})
			w.refused("delete "+tt.name, err, tt.code, field("name"))
			_, err = w.subscriptions.UpdateSubscription(w.Context(), &fanfarev1.UpdateSubscriptionRequest{
				Subscription: &fanfarev1.Subscription{Name: tt.name, Description: "x"},
			})
			w.refused("update "+tt.name, err, tt.code, field("subscription.name"))
			_, err = w.subscriptions.GetSubscriptionSecret(w.Context(), &fanfarev1.GetSubscriptionSecretRequest{Name: tt.name + "/secret"})
			w.refused("secret of "+tt.name, err, tt.code, field("name"))
		}
		_, err := w.subscriptions.GetSubscriptionSecret(w.Context(), &fanfarev1.GetSubscriptionSecretRequest{Name: sub.GetName()})
		w.refused("secret by the subscription's name", err, codes.InvalidArgument, "name")
		for parent, code := range map[string]codes.Code{"tenants/nobody": codes.NotFound, "nobody": codes.InvalidArgument} {
			field := map[codes.Code]string{codes.InvalidArgument: "parent"}[code]
			_, err := w.subscriptions.CreateSubscription(w.Context(), &fanfarev1.CreateSubscriptionRequest{
				Parent: parent, Subscription: &fanfarev1.Subscription{Url: "https://example.com"},
			})
			w.refused("create in "+parent, err, code, field)
			_, err = w.subscriptions.ListSubscriptions(w.Context(), &fanfarev1.ListSubscriptionsRequest{Parent: parent})
			w.refused("list "+parent, err, code, field)
		}
	})
}

// The fields that a mask names are changed, to what they are not set to as
// well; without a mask, those that are set.
func TestUpdateMasks(t *testing.T) {
	type sub = fanfarev1.Subscription
	before := &sub{
		Url: "https://example.com/a", EventTypes: []string{"a"}, Description: "old", PayloadMode: "raw",
		RetrySchedule: durations(1, time.Second), Timeout: durationpb.New(2 * time.Second),
	}
	changed := func(change func(*sub)) *sub {
		after := proto.CloneOf(before)
		change(after)
		return after
	}
	tests := []struct {
		name  string
		given *sub
		mask  []string // nil: none
		want  *sub     // nil: an error
	}{
		{"nothing", &sub{}, nil, before},
		{"what is set", &sub{Description: "new"}, nil, changed(func(s *sub) { s.Description = "new" })},
		{"an empty mask", &sub{Description: "new"}, []string{}, changed(func(s *sub) { s.Description = "new" })},
		{
			"everything that is set",
			&sub{Url: "https://example.com/b", EventTypes: []string{"b"}, Description: "new", PayloadMode: "standard", RetrySchedule: durations(2, 0), Timeout: durationpb.New(time.Second)}, nil,
			&sub{Url: "https://example.com/b", EventTypes: []string{"b"}, Description: "new", PayloadMode: "standard", RetrySchedule: durations(2, 0), Timeout: durationpb.New(time.Second)},
		},
		{"one of those that are set", &sub{Url: "https://example.com/b", Description: "new"}, []string{"url"}, changed(func(s *sub) { s.Url = "https://example.com/b" })},
		{"to nothing: description", &sub{}, []string{"description"}, changed(func(s *sub) { s.Description = "" })},
		{"to nothing: event_types", &sub{}, []string{"event_types"}, changed(func(s *sub) { s.EventTypes = nil })},
		{"to nothing: retry_schedule", &sub{}, []string{"retry_schedule"}, changed(func(s *sub) { s.RetrySchedule = nil })},
		{"to nothing: timeout", &sub{}, []string{"timeout"}, changed(func(s *sub) { s.Timeout = nil })},
		{"to the default: payload_mode", &sub{}, []string{"payload_mode"}, changed(func(s *sub) { s.PayloadMode = "standard" })},
		{"to nothing: url", &sub{}, []string{"url"}, nil},
		{
			"all", &sub{Url: "https://example.com/b"},
			[]string{"*"},
			&sub{Url: "https://example.com/b", PayloadMode: "standard"},
		},
		{
			"what only the server sets is ignored",
			&sub{Description: "new", CreateTime: &timestamppb.Timestamp{}, Health: &fanfarev1.SubscriptionHealth{OutstandingCount: 3}},
			[]string{"name", "create_time", "update_time", "health", "health.behind", "etag", "description"},
			changed(func(s *sub) { s.Description = "new" }),
		},
		{"a field there is not", &sub{}, []string{"description", "colour"}, nil},
		{"a field within a field", &sub{}, []string{"timeout.seconds"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				created := must[*sub](w)(w.subscriptions.CreateSubscription(w.Context(), &fanfarev1.CreateSubscriptionRequest{Parent: tenant, Subscription: before}))
				<-time.After(time.Hour)
				tt.given.Name = created.GetName()
				request := &fanfarev1.UpdateSubscriptionRequest{Subscription: tt.given}
				if tt.mask != nil {
					request.UpdateMask = &fieldmaskpb.FieldMask{Paths: tt.mask}
				}
				updated, err := w.subscriptions.UpdateSubscription(w.Context(), request)
				got := must[*sub](w)(w.subscriptions.GetSubscription(w.Context(), &fanfarev1.GetSubscriptionRequest{Name: created.GetName()}))
				want := proto.CloneOf(tt.want)
				if tt.want == nil {
					field := "update_mask"
					if slices.Contains(tt.mask, "url") {
						field = "subscription.url"
					}
					w.refused("update", err, codes.InvalidArgument, field)
					want = proto.CloneOf(before)
					want.UpdateTime = created.GetUpdateTime()
				} else {
					if err != nil {
						w.Fatal(err)
					}
					want.UpdateTime = timestamppb.Now()
					if diff := cmp.Diff(got, updated, protocmp.Transform()); diff != "" {
						w.Errorf("the answer to the update is not what is there after it:\n%s", diff)
					}
				}
				want.Name, want.CreateTime, want.Health = created.GetName(), created.GetCreateTime(), &fanfarev1.SubscriptionHealth{}
				if diff := cmp.Diff(want, normal(got), protocmp.Transform(), ignoreState()); diff != "" {
					w.Errorf("subscription (-want +got):\n%s", diff)
				}
				if secret := w.secret(created); secret != created.GetSecret() {
					w.Error("the secret was changed")
				}
			})
		})
	}
}

func (w *world) secret(sub *fanfarev1.Subscription) string {
	w.Helper()
	secret := must[*fanfarev1.SubscriptionSecret](w)(w.subscriptions.GetSubscriptionSecret(w.Context(),
		&fanfarev1.GetSubscriptionSecretRequest{Name: sub.GetName() + "/secret"}))
	if secret.GetName() != sub.GetName()+"/secret" {
		w.Errorf("the secret's name is %q", secret.GetName())
	}
	return secret.GetSecret()
}

// The secret is in the answers to Create and GetSecret, and nowhere else.
func TestSecrets(t *testing.T) {
	inWorld(t, func(w *world) {
		created := w.subscribe(tenant)
		if secret := w.secret(created); secret == "" || secret != created.GetSecret() {
			w.Errorf("the secret is %q, was created as %q", secret, created.GetSecret())
		}
		update := func(secret *string, mask ...string) *fanfarev1.Subscription {
			request := &fanfarev1.UpdateSubscriptionRequest{Subscription: &fanfarev1.Subscription{Name: created.GetName(), Secret: secret, Url: "https://example.com"}}
			if mask != nil {
				request.UpdateMask = &fieldmaskpb.FieldMask{Paths: mask}
			}
			return must[*fanfarev1.Subscription](w)(w.subscriptions.UpdateSubscription(w.Context(), request))
		}
		for _, tt := range []struct {
			name   string
			secret *string
			mask   []string
			want   string // "old", "new", or the secret
		}{
			{"another field", nil, []string{"url"}, "old"},
			{"all fields, without a secret", nil, []string{"*"}, "old"},
			{"a secret that is not in the mask", new(secretOf(24)), []string{"url"}, "old"},
			{"a secret", new(secretOf(24)), []string{"secret"}, secretOf(24)},
			{"a secret without a mask", new(secretOf(64)), nil, secretOf(64)},
			{"all fields, with a secret", new(secretOf(24)), []string{"*"}, secretOf(24)},
			{"a secret to be made", nil, []string{"secret"}, "new"},
		} {
			old := w.secret(created)
			if answer := update(tt.secret, tt.mask...); answer.Secret != nil {
				w.Errorf("%s: the answer to the update holds the secret", tt.name)
			}
			got := w.secret(created)
			ok := got == tt.want || tt.want == "old" && got == old || tt.want == "new" && got != old && strings.HasPrefix(got, "whsec_")
			if !ok {
				w.Errorf("%s: the secret is %q after %q, want %s", tt.name, got, old, tt.want)
			}
		}
		listed := must[*fanfarev1.ListSubscriptionsResponse](w)(w.subscriptions.ListSubscriptions(w.Context(), &fanfarev1.ListSubscriptionsRequest{Parent: tenant}))
		if len(listed.GetSubscriptions()) != 1 || listed.GetSubscriptions()[0].Secret != nil {
			w.Errorf("listed %v", listed)
		}
	})
}

// An etag changes with every update, even of updates at one moment, and lets a
// change through only while it is the newest.
func TestEtags(t *testing.T) {
	inWorld(t, func(w *world) {
		created := w.subscribe(tenant)
		update := func(etag string) (*fanfarev1.Subscription, error) {
			return w.subscriptions.UpdateSubscription(w.Context(), &fanfarev1.UpdateSubscriptionRequest{
				Subscription: &fanfarev1.Subscription{Name: created.GetName(), Description: "new", Etag: etag},
			})
		}
		seen := []string{created.GetEtag()}
		for range 5 {
			updated := must[*fanfarev1.Subscription](w)(update(seen[len(seen)-1]))
			if slices.Contains(seen, updated.GetEtag()) {
				w.Fatalf("etag %q comes again after %q", updated.GetEtag(), seen)
			}
			seen = append(seen, updated.GetEtag())
		}
		if got := must[*fanfarev1.Subscription](w)(w.subscriptions.GetSubscription(w.Context(), &fanfarev1.GetSubscriptionRequest{Name: created.GetName()})); got.GetEtag() != seen[5] {
			w.Errorf("etag is %q, want %q", got.GetEtag(), seen[5])
		}
		for _, old := range []string{seen[0], seen[4], "x"} {
			_, err := update(old)
			w.refused("update with "+old, err, codes.Aborted, "etag")
			_, err = w.subscriptions.DeleteSubscription(w.Context(), &fanfarev1.DeleteSubscriptionRequest{Name: created.GetName(), Etag: old})
			w.refused("delete with "+old, err, codes.Aborted, "etag")
		}
		must[*fanfarev1.Subscription](w)(update(""))
		newest := must[*fanfarev1.Subscription](w)(update(""))
		must[*emptypb.Empty](w)(w.subscriptions.DeleteSubscription(w.Context(), &fanfarev1.DeleteSubscriptionRequest{Name: created.GetName(), Etag: newest.GetEtag()}))
		_, err := w.subscriptions.DeleteSubscription(w.Context(), &fanfarev1.DeleteSubscriptionRequest{Name: created.GetName()})
		w.refused("delete again", err, codes.NotFound, "")
	})
}

// Of two updates with the same etag at the same time one is made.
func TestEtagsDecideRaces(t *testing.T) {
	inWorld(t, func(w *world) {
		const racers = 10
		created := w.subscribe(tenant)
		results := make(chan error, racers)
		for i := range racers {
			go func() {
				_, err := w.subscriptions.UpdateSubscription(w.Context(), &fanfarev1.UpdateSubscriptionRequest{
					Subscription: &fanfarev1.Subscription{Name: created.GetName(), Description: fmt.Sprint(i), Etag: created.GetEtag()},
				})
				results <- err
			}()
		}
		made := 0
		for range racers {
			if err := <-results; err == nil {
				made++
			} else {
				w.refused("an update that lost", err, codes.Aborted, "etag")
			}
		}
		if made != 1 {
			w.Errorf("%d updates were made with one etag", made)
		}
	})
}

func TestListSubscriptions(t *testing.T) {
	inWorld(t, func(w *world) {
		must[*fanfarev1.Tenant](w)(w.tenants.CreateTenant(w.Context(), &fanfarev1.CreateTenantRequest{TenantId: "acme"}))
		var names []string // oldest first
		for i := range 60 {
			parent := tenant
			if i%10 == 0 {
				parent = "tenants/acme"
			}
			if sub := w.subscribe(parent); parent == tenant {
				names = append(names, sub.GetName())
			}
		}
		list := func(size int32, token string) ([]string, string) {
			response := must[*fanfarev1.ListSubscriptionsResponse](w)(w.subscriptions.ListSubscriptions(w.Context(),
				&fanfarev1.ListSubscriptionsRequest{Parent: tenant, PageSize: size, PageToken: token}))
			var got []string
			for _, sub := range response.GetSubscriptions() {
				got = append(got, sub.GetName())
			}
			return got, response.GetNextPageToken()
		}
		for size, want := range map[int32]int{0: 50, 1: 1, 53: 53, 54: 54, 55: 54, 1 << 30: 54} {
			got, token := list(size, "")
			if !slices.Equal(got, names[:want]) || (token != "") != (want < len(names)) {
				w.Errorf("a page of %d has %d, and the token %q", size, len(got), token)
			}
		}
		// All pages, while what was listed is deleted and more is made.
		var got []string
		for token := ""; len(got) == 0 || token != ""; {
			var page []string
			page, token = list(7, token)
			got = append(got, page...)
			if len(got) <= 14 {
				must[*emptypb.Empty](w)(w.subscriptions.DeleteSubscription(w.Context(), &fanfarev1.DeleteSubscriptionRequest{Name: page[6]}))
				names = append(names, w.subscribe(tenant).GetName())
			}
		}
		if !slices.Equal(got, names) {
			w.Errorf("the pages hold %v, want %v", got, names)
		}
		for _, tt := range []struct {
			name    string
			request *fanfarev1.ListSubscriptionsRequest
			field   string
		}{
			{"a negative size", &fanfarev1.ListSubscriptionsRequest{Parent: tenant, PageSize: -1}, "page_size"},
			{"a token that is none", &fanfarev1.ListSubscriptionsRequest{Parent: tenant, PageToken: "!"}, "page_token"},
			{"a token of something else", &fanfarev1.ListSubscriptionsRequest{Parent: tenant, PageToken: "_____w"}, "page_token"},
		} {
			_, err := w.subscriptions.ListSubscriptions(w.Context(), tt.request)
			w.refused(tt.name, err, codes.InvalidArgument, tt.field)
		}
	})
}

// Changes are ordered with publishes.
func TestSubscriptionsAreOrderedWithPublishes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.publish(tenant, "order.created")
		sub := w.subscribe(tenant, "order.*")
		owed := w.publish(tenant, "order.created", "order", "order.created.twice", "other.created")[0]
		must[*fanfarev1.Subscription](w)(w.subscriptions.UpdateSubscription(w.Context(), &fanfarev1.UpdateSubscriptionRequest{
			Subscription: &fanfarev1.Subscription{Name: sub.GetName(), EventTypes: []string{"other.**"}},
		}))
		then := w.publish(tenant, "other.a.b", "order.created")[0]
		response := must[*fanfarev1.ListDeliveriesResponse](w)(w.deliveries.ListDeliveries(w.Context(), &fanfarev1.ListDeliveriesRequest{Parent: tenant}))
		var got []string
		for _, delivery := range response.GetDeliveries() {
			got = append(got, delivery.GetEvent())
		}
		if want := []string{tenant + "/events/" + then, tenant + "/events/" + owed}; !slices.Equal(got, want) {
			w.Errorf("owed are %v, want %v", got, want)
		}
		if got := must[*fanfarev1.Subscription](w)(w.subscriptions.GetSubscription(w.Context(), &fanfarev1.GetSubscriptionRequest{Name: sub.GetName()})); got.GetHealth().GetOutstandingCount() != 2 {
			w.Errorf("health is %v, want 2 outstanding", got.GetHealth())
		}
	})
}
