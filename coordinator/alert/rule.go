package alert

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Rule says when alerts of a kind fire, and how often they are said. What the
// numbers mean is up to the kind: see alert_service.proto.
type Rule struct {
	Kind      Kind
	Severity  string
	Threshold float64
	Period    time.Duration
	For       time.Duration
	Repeat    time.Duration
	Disabled  bool
	Mute      time.Time // until then nobody is told
	Origin    string    // `tenant` or `subscription`; empty: it is the default
}

// Where a rule was changed.
const (
	OfTenant       = "tenant"
	OfSubscription = "subscription"
)

// Rules are the rules that were changed, in layers: what was changed for a
// subscription counts, then what was changed for its tenant, then the default.
type Rules struct {
	Tenant, Subscription []*fanfarev1.AlertRule
}

// Of returns the rule of a kind that is in force.
func (r Rules) Of(kind Kind) Rule {
	if changed := find(r.Subscription, kind); changed != nil {
		return decode(kind, changed, OfSubscription)
	}
	if changed := find(r.Tenant, kind); changed != nil {
		return decode(kind, changed, OfTenant)
	}
	return Default(kind)
}

// Default returns the rule of a kind that nobody has changed.
func Default(kind Kind) Rule {
	d := definitionOf(kind)
	if d == nil {
		return Rule{Kind: kind, Severity: Warning, Repeat: day}
	}
	rule := d.rule
	rule.Kind = kind
	return rule
}

// kindOf returns the kind that the name of a rule ends with.
func kindOf(name string) Kind { return Kind(name[strings.LastIndexByte(name, '/')+1:]) }

func find(changed []*fanfarev1.AlertRule, kind Kind) *fanfarev1.AlertRule {
	for _, rule := range changed {
		if kindOf(rule.GetName()) == kind {
			return rule
		}
	}
	return nil
}

func decode(kind Kind, rule *fanfarev1.AlertRule, origin string) Rule {
	decoded := Rule{
		Kind: kind, Severity: rule.GetSeverity(), Threshold: rule.GetThreshold(), Period: rule.GetPeriod().AsDuration(),
		For: rule.GetForDuration().AsDuration(), Repeat: rule.GetRepeatInterval().AsDuration(),
		Disabled: rule.GetDisabled(), Origin: origin,
	}
	if rule.GetMuteTime() != nil {
		decoded.Mute = rule.GetMuteTime().AsTime()
	}
	return decoded
}

// Show returns a rule as clients see it, under the name that begins with
// parent.
func (r Rule) Show(parent string) *fanfarev1.AlertRule {
	shown := &fanfarev1.AlertRule{
		Name: parent + "/alertRules/" + string(r.Kind), Description: r.Kind.Description(),
		Severity: r.Severity, Threshold: r.Threshold,
		ForDuration: durationpb.New(r.For), RepeatInterval: durationpb.New(r.Repeat),
		Disabled: r.Disabled, Origin: r.Origin,
	}
	if d := definitionOf(r.Kind); d != nil && d.hasPeriod {
		shown.Period = durationpb.New(r.Period)
	}
	if !r.Mute.IsZero() {
		shown.MuteTime = timestamppb.New(r.Mute)
	}
	return shown
}

// FieldError says what is wrong with a field of a rule.
type FieldError struct {
	Field   string
	Problem string // completes "field ", as in "is 3; 0 to 1 are allowed"
}

// Error names the field.
func (e *FieldError) Error() string { return e.Field + " " + e.Problem }

func wrong(field, format string, args ...any) error {
	return &FieldError{field, fmt.Sprintf(format, args...)}
}

// Changed returns a rule with some fields of another: see UpdateAlertRule. An
// error is a *FieldError.
func (r Rule) Changed(given *fanfarev1.AlertRule, fields []string) (Rule, error) {
	if len(fields) == 0 {
		fields = fieldsSet(given)
	}
	for _, field := range fields {
		if err := r.change(given, field); err != nil {
			return r, err
		}
	}
	return r, r.check()
}

// ruleFields are the fields of a rule that clients may change.
func ruleFields() []string {
	return []string{"severity", "threshold", "period", "for_duration", "repeat_interval", "disabled", "mute_time"}
}

// fieldsSet returns which fields of a rule are set.
func fieldsSet(given *fanfarev1.AlertRule) []string {
	set := map[string]bool{
		"severity": given.GetSeverity() != "", "threshold": given.GetThreshold() != 0, "period": given.GetPeriod() != nil,
		"for_duration": given.GetForDuration() != nil, "repeat_interval": given.GetRepeatInterval() != nil,
		"disabled": given.GetDisabled(), "mute_time": given.GetMuteTime() != nil,
	}
	return slices.DeleteFunc(ruleFields(), func(field string) bool { return !set[field] })
}

func (r *Rule) change(given *fanfarev1.AlertRule, field string) error {
	plain := Default(r.Kind)
	switch field {
	case "*":
		for _, each := range ruleFields() {
			if err := r.change(given, each); err != nil {
				return err
			}
		}
	case "severity":
		r.Severity = cmp.Or(given.GetSeverity(), plain.Severity)
	case "threshold":
		r.Threshold = cmp.Or(given.GetThreshold(), plain.Threshold)
	case "period":
		return spanOf(&r.Period, field, given.GetPeriod(), plain.Period)
	case "for_duration":
		return spanOf(&r.For, field, given.GetForDuration(), plain.For)
	case "repeat_interval":
		return spanOf(&r.Repeat, field, given.GetRepeatInterval(), plain.Repeat)
	case "disabled":
		r.Disabled = given.GetDisabled()
	case "mute_time":
		r.Mute = time.Time{}
		if given.GetMuteTime() != nil {
			r.Mute = given.GetMuteTime().AsTime()
		}
	case "name", "description", "origin": // only the server sets them: ignored
	default:
		return wrong("update_mask", "has %q, which is not a field that can be changed", field)
	}
	return nil
}

// spanOf sets a time to what was given, or to the default.
func spanOf(to *time.Duration, field string, given *durationpb.Duration, otherwise time.Duration) error {
	if given == nil {
		*to = otherwise
		return nil
	}
	if !given.IsValid() {
		return wrong(field, "is not a duration")
	}
	*to = given.AsDuration()
	return nil
}

func (r Rule) check() error {
	d := definitionOf(r.Kind)
	switch {
	case r.Severity != Info && r.Severity != Warning && r.Severity != Critical:
		return wrong("severity", "is %q; expected info, warning or critical", r.Severity)
	case !d.hasThreshold && r.Threshold != 0:
		return wrong("threshold", "is given, but %s has none", r.Kind)
	case d.share && !(r.Threshold > 0 && r.Threshold <= 1):
		return wrong("threshold", "is %v; more than 0, and at most 1, is allowed", r.Threshold)
	case d.hasThreshold && !d.share && !(r.Threshold >= 1 && r.Threshold <= 1e9):
		return wrong("threshold", "is %v; 1 to 1,000,000,000 are allowed", r.Threshold)
	case !d.hasPeriod && r.Period != 0:
		return wrong("period", "is given, but %s has none", r.Kind)
	case d.hasPeriod && (r.Period < MinPeriod || r.Period > MaxPeriod):
		return wrong("period", "is %v; %v to %v are allowed", r.Period, MinPeriod, MaxPeriod)
	case r.For < 0 || r.For > MaxFor:
		return wrong("for_duration", "is %v; 0 s to %v are allowed", r.For, MaxFor)
	case r.Repeat < MinPeriod || r.Repeat > MaxPeriod:
		return wrong("repeat_interval", "is %v; %v to %v are allowed", r.Repeat, MinPeriod, MaxPeriod)
	}
	return nil
}

// With returns a layer of rules in which the rule of one kind is this, in the
// order of the kinds; the layer itself is not changed.
func (r Rule) With(layer []*fanfarev1.AlertRule) []*fanfarev1.AlertRule {
	kept := Without(layer, r.Kind)
	shown := r.Show("")
	shown.Name, shown.Description, shown.Origin = string(r.Kind), "", ""
	kept = append(kept, shown)
	slices.SortFunc(kept, func(a, b *fanfarev1.AlertRule) int { return strings.Compare(a.GetName(), b.GetName()) })
	return kept
}

// Without returns a layer of rules without that of a kind.
func Without(layer []*fanfarev1.AlertRule, kind Kind) []*fanfarev1.AlertRule {
	return slices.DeleteFunc(slices.Clone(layer), func(rule *fanfarev1.AlertRule) bool { return kindOf(rule.GetName()) == kind })
}
