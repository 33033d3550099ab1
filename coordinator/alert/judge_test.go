package alert_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func TestSummaries(t *testing.T) {
	for want, seen := range map[string]alert.Subscription{
		"1 delivery was given up within 1h":                     {Died: 1},
		"2 deliveries were given up within 1h":                  {Died: 2},
		"30 of 40 attempts within 10m have failed":              {Attempts: 40, Failed: 30},
		"what is owed has waited since 2026-03-01 10:00:00 UTC": {Oldest: start.Add(-2 * time.Hour)},
	} {
		alert.Judge(seen, alert.Rules{}, start, func(c alert.Condition) {
			if c.Holds && c.Text != want {
				t.Errorf("of %+v it is said that %s, want %s", seen, c.Text, want)
			}
		})
	}
	rules := alert.Rules{Tenant: []*fanfarev1.AlertRule{{Name: "failure_ratio", Threshold: 0.1, Period: durationpb.New(90*time.Minute + 5*time.Second)}}}
	alert.Judge(alert.Subscription{Attempts: 20, Failed: 2}, rules, start, func(c alert.Condition) {
		if want := "2 of 20 attempts within 1h30m5s have failed"; c.Holds && c.Text != want {
			t.Errorf("it is said that %s, want %s", c.Text, want)
		}
	})
}

func TestJudge(t *testing.T) {
	const day, retention = 24 * time.Hour, 7 * 24 * time.Hour
	ago := func(d time.Duration) time.Time { return start.Add(-d) }
	tests := map[string]struct {
		seen  alert.Subscription
		rules alert.Rules
		want  []alert.Kind
	}{
		"well": {seen: alert.Subscription{Oldest: ago(time.Second), Expires: start.Add(retention)}},
		"failing": {
			seen: alert.Subscription{Failures: 5, Since: ago(time.Minute)},
			want: []alert.Kind{alert.EndpointFailing},
		},
		"a few failures":       {seen: alert.Subscription{Failures: 4, Since: ago(time.Hour)}},
		"paused while failing": {seen: alert.Subscription{Mode: alert.Paused, Failures: 50, Since: ago(day), Oldest: ago(day)}},
		"failing, by a rule of the tenant's": {
			seen:  alert.Subscription{Failures: 2},
			rules: alert.Rules{Tenant: []*fanfarev1.AlertRule{{Name: "endpoint_failing", Severity: alert.Info, Threshold: 2}}},
			want:  []alert.Kind{alert.EndpointFailing},
		},
		"the subscription's rule counts": {
			seen: alert.Subscription{Failures: 50},
			rules: alert.Rules{
				Tenant:       []*fanfarev1.AlertRule{{Name: "endpoint_failing", Threshold: 2}},
				Subscription: []*fanfarev1.AlertRule{{Name: "endpoint_failing", Threshold: 2, Disabled: true}},
			},
		},
		"disabled soon": {
			seen: alert.Subscription{Failures: 90, Since: ago(4 * day), Disables: start.Add(day)},
			want: []alert.Kind{alert.EndpointFailing, alert.EndpointDisabledSoon},
		},
		"disabled": {
			seen: alert.Subscription{Mode: alert.Disabled, ModeReason: "gone", Failures: 90, Disables: ago(day), Oldest: ago(day)},
			want: []alert.Kind{alert.EndpointDisabled},
		},
		"half of few":  {seen: alert.Subscription{Attempts: 19, Failed: 19}},
		"half of many": {seen: alert.Subscription{Attempts: 20, Failed: 10}, want: []alert.Kind{alert.FailureRatio}},
		"fewer":        {seen: alert.Subscription{Attempts: 21, Failed: 10}},
		"dead":         {seen: alert.Subscription{Died: 1}, want: []alert.Kind{alert.DeliveryDead}},
		"old backlog":  {seen: alert.Subscription{Oldest: ago(time.Hour)}, want: []alert.Kind{alert.BacklogAge}},
		"expiring, though paused": {
			seen: alert.Subscription{Mode: alert.Paused, Expires: start.Add(day), Retention: retention},
			want: []alert.Kind{alert.EventsExpiring},
		},
		"kept for a short time": {seen: alert.Subscription{Expires: start.Add(6 * time.Hour), Retention: 7 * time.Hour}},
		"kept for a short time, of which little is left": {
			seen: alert.Subscription{Expires: start.Add(time.Hour), Retention: 7 * time.Hour},
			want: []alert.Kind{alert.EventsExpiring},
		},
		"certificate": {
			seen: alert.Subscription{CertificateEnds: start.Add(13 * day)},
			want: []alert.Kind{alert.CertificateExpiring},
		},
		"secret":         {seen: alert.Subscription{SecretEnds: start.Add(time.Hour)}, want: []alert.Kind{alert.SecretExpiring}},
		"secret is over": {seen: alert.Subscription{SecretEnds: ago(time.Minute)}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var held, asked []alert.Kind
			alert.Judge(tt.seen, tt.rules, start, func(c alert.Condition) {
				asked = append(asked, c.Kind)
				if c.Holds {
					held = append(held, c.Kind)
				}
			})
			if !slices.Equal(held, tt.want) {
				t.Errorf("held: %v, want %v", held, tt.want)
			}
			if !slices.Equal(asked, alert.Kinds(false)) {
				t.Errorf("asked for %v, want all kinds", asked)
			}
		})
	}
}

func TestSurvey(t *testing.T) {
	cluster := alert.Cluster{
		Partitions: []alert.Partition{
			{ID: 0, Led: true},
			{ID: 1},
			{ID: 2, Halted: "its log has a gap"},
			{ID: 3, Led: true, Refuses: "the disk is full", Silent: true, Lag: 20_000},
			{ID: 4, Led: true, Unknown: true},
		},
		Shards: []*fanfarev1.Shard{
			{Partition: 0, Slot: 1, Subscriptions: 3},
			{Partition: 0, Slot: 2},
			{Partition: 0, Slot: 3, Subscriptions: 3, Worker: "worker-1"},
		},
		Engines:         []*fanfarev1.Engine{{Name: "nats", Unsynced: true}, {Name: "etcd"}},
		CertificatesEnd: map[string]time.Time{"a": start.Add(time.Hour), "b": start.Add(1000 * time.Hour)},
	}
	var held, asked []string
	note := func(c alert.Condition) {
		asked = append(asked, c.Object)
		if c.Holds {
			held = append(held, string(c.Kind)+" "+c.Object)
		}
	}
	alert.Survey(cluster, "fanfare-system", alert.Rules{}, note)
	alert.SurveyCertificates(cluster, "fanfare-system", alert.Rules{}, start, note)
	alert.SurveyMember(alert.Member{ID: "a", Doubt: "no etcd"}, "fanfare-system", alert.Rules{}, note)
	alert.SurveyMember(alert.Member{ID: "b", Margin: 0.2}, "fanfare-system", alert.Rules{}, note)
	alert.SurveyMember(alert.Member{ID: "c", Margin: 0.5}, "fanfare-system", alert.Rules{}, note)
	want := []string{
		"partition_leaderless partitions/1", "partition_halted partitions/2", "publish_refused partitions/3",
		"log_silent partitions/3", "history_lag partitions/3", "shard_unowned shards/0/1", "log_not_syncing engines/nats",
		"certificate_expiring members/a", "control_plane_lost members/a", "lease_margin members/b",
	}
	if !slices.Equal(held, want) {
		t.Errorf("held:\n%s\nwant:\n%s", strings.Join(held, "\n"), strings.Join(want, "\n"))
	}
	// Of a leader that does not answer nothing is known but that it leads.
	if n := len(slices.DeleteFunc(asked, func(object string) bool { return object != "partitions/4" })); n != 2 {
		t.Errorf("%d things were said of a partition whose leader did not answer, want 2", n)
	}
}

func TestChangedRules(t *testing.T) {
	minutes := func(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Minute) }
	tests := map[string]struct {
		kind   alert.Kind
		given  *fanfarev1.AlertRule
		fields []string
		field  string // that is wrong
	}{
		"nothing":               {kind: alert.FailureRatio, given: &fanfarev1.AlertRule{}},
		"a ratio":               {kind: alert.FailureRatio, given: &fanfarev1.AlertRule{Threshold: 0.1}},
		"a ratio above 1":       {kind: alert.FailureRatio, given: &fanfarev1.AlertRule{Threshold: 1.1}, field: "threshold"},
		"a count below 1":       {kind: alert.DeliveryDead, given: &fanfarev1.AlertRule{Threshold: 0.5}, field: "threshold"},
		"no threshold":          {kind: alert.BacklogAge, given: &fanfarev1.AlertRule{Threshold: 2}, field: "threshold"},
		"no period":             {kind: alert.EndpointFailing, given: &fanfarev1.AlertRule{Period: minutes(2)}, field: "period"},
		"a short period":        {kind: alert.BacklogAge, given: &fanfarev1.AlertRule{Period: durationpb.New(time.Second)}, field: "period"},
		"not a duration":        {kind: alert.BacklogAge, given: &fanfarev1.AlertRule{Period: &durationpb.Duration{Nanos: -2e9}}, field: "period"},
		"a long for":            {kind: alert.BacklogAge, given: &fanfarev1.AlertRule{ForDuration: minutes(1 << 20)}, field: "for_duration"},
		"said again at once":    {kind: alert.BacklogAge, given: &fanfarev1.AlertRule{RepeatInterval: minutes(0)}, field: "repeat_interval"},
		"an unknown severity":   {kind: alert.BacklogAge, given: &fanfarev1.AlertRule{Severity: "bad"}, field: "severity"},
		"an unknown field":      {kind: alert.BacklogAge, given: &fanfarev1.AlertRule{}, fields: []string{"colour"}, field: "update_mask"},
		"everything is default": {kind: alert.BacklogAge, given: &fanfarev1.AlertRule{}, fields: []string{"*"}},
		"not a number":          {kind: alert.FailureRatio, given: &fanfarev1.AlertRule{Threshold: nan()}, field: "threshold"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := alert.Default(tt.kind).Changed(tt.given, tt.fields)
			field := ""
			if wrong, ok := err.(*alert.FieldError); ok { //nolint:errorlint // it is not wrapped
				field = wrong.Field
			}
			if field != tt.field || err != nil && field == "" {
				t.Errorf("got %v, want an error of %q", err, tt.field)
			}
		})
	}
}

func nan() float64 { zero := 0.0; return zero / zero }

// What is stored of a rule is what is in force.
func TestRulesSurviveStorage(t *testing.T) {
	for _, kind := range alert.Kinds(true) {
		changed, err := alert.Default(kind).Changed(&fanfarev1.AlertRule{Severity: alert.Info, Disabled: true, RepeatInterval: durationpb.New(time.Hour)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		layer := changed.With(alert.Default(alert.EndpointFailing).With(nil))
		got := alert.Rules{Tenant: layer}.Of(kind)
		changed.Origin = alert.OfTenant
		if got != changed {
			t.Errorf("stored and read: %+v, want %+v", got, changed)
		}
		if got := (alert.Rules{Tenant: alert.Without(layer, kind)}).Of(kind); got != alert.Default(kind) {
			t.Errorf("after it was taken out: %+v, want the default", got)
		}
	}
}

// Every kind of alert has event types of its own.
func TestEventTypes(t *testing.T) {
	seen := make(map[string]alert.Kind)
	for _, kind := range alert.Kinds(true) {
		for _, firing := range []bool{true, false} {
			name := kind.EventType(firing)
			if other, twice := seen[name]; twice || !strings.HasPrefix(name, "fanfare.") {
				t.Errorf("%s has the event type %q, and so has %q", kind, name, other)
			}
			seen[name] = kind
		}
	}
}

func TestWindow(t *testing.T) {
	var w alert.Window
	w.Add(start, true) // counts nothing without a period
	w.SetPeriod(10 * time.Minute)
	for i := range 10 {
		w.Add(start.Add(time.Duration(i)*time.Minute), i%2 == 0)
	}
	if all, failed := w.Sum(start.Add(9 * time.Minute)); all != 10 || failed != 5 {
		t.Errorf("counted %d and %d, want 10 and 5", all, failed)
	}
	if all, _ := w.Sum(start.Add(14 * time.Minute)); all != 6 {
		t.Errorf("counted %d five minutes later, want 6", all)
	}
	if all, _ := w.Sum(start.Add(time.Hour)); all != 0 {
		t.Errorf("counted %d an hour later, want 0", all)
	}
	w.Add(start.Add(time.Minute), true) // a clock that went back
	if all, _ := w.Sum(start.Add(time.Hour)); all != 1 {
		t.Errorf("counted %d, want 1", all)
	}
}
