package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// parseSpan reads a duration as Go writes it, or a number of days as in 7d.
func parseSpan(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("want a duration such as 30s, 5m, 2h or 7d, got %q", s)
	}
	return d, nil
}

// spanFlag is a duration that may be absent.
type spanFlag struct{ value *durationpb.Duration }

// String implements pflag.Value.
func (f *spanFlag) String() string { return span(f.value) }

// Type implements pflag.Value.
func (f *spanFlag) Type() string { return "duration" }

// Set implements pflag.Value. The empty string makes it absent.
func (f *spanFlag) Set(s string) error {
	if s == "" {
		f.value = nil
		return nil
	}
	d, err := parseSpan(s)
	if err != nil {
		return err
	}
	f.value = durationpb.New(d)
	return nil
}

// spansFlag is a list of durations.
type spansFlag struct{ values []*durationpb.Duration }

// String implements pflag.Value.
func (f *spansFlag) String() string { return spans(f.values) }

// Type implements pflag.Value.
func (f *spansFlag) Type() string { return "durations" }

// Set implements pflag.Value. The empty string makes the list empty.
func (f *spansFlag) Set(s string) error {
	f.values = nil
	if s == "" {
		return nil
	}
	for part := range strings.SplitSeq(s, ",") {
		d, err := parseSpan(strings.TrimSpace(part))
		if err != nil {
			return err
		}
		f.values = append(f.values, durationpb.New(d))
	}
	return nil
}

// spans shows a list of durations.
func spans(values []*durationpb.Duration) string {
	all := make([]string, len(values))
	for i, d := range values {
		all[i] = span(d)
	}
	return strings.Join(all, ",")
}

// timeFlag is a moment that may be absent: RFC 3339, or how long ago.
type timeFlag struct{ value *timestamppb.Timestamp }

// String implements pflag.Value.
func (f *timeFlag) String() string {
	if f.value == nil {
		return ""
	}
	return f.value.AsTime().Format(time.RFC3339)
}

// Type implements pflag.Value.
func (f *timeFlag) Type() string { return "time" }

// Set implements pflag.Value.
func (f *timeFlag) Set(s string) error {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		f.value = timestamppb.New(t)
		return nil
	}
	ago, err := parseSpan(s)
	if err != nil {
		return fmt.Errorf("want how long ago, such as 1h or 7d, or a time such as 2026-01-02T15:04:05Z, got %q", s)
	}
	f.value = timestamppb.New(time.Now().Add(-ago))
	return nil
}

// timeRange holds the flags of the lists that go back in time.
type timeRange struct{ since, until timeFlag }

func (r *timeRange) register(cmd *cobra.Command, what string) {
	cmd.Flags().Var(&r.since, "since", "only "+what+" at or after this time, or this long ago")
	cmd.Flags().Var(&r.until, "until", "only "+what+" before this time, or this long ago")
}

// stateFlag is a delivery's state, in any case.
type stateFlag struct{ value fanfarev1.Delivery_State }

// String implements pflag.Value.
func (f *stateFlag) String() string {
	if f.value == fanfarev1.Delivery_STATE_UNSPECIFIED {
		return ""
	}
	return stateName(f.value)
}

// Type implements pflag.Value.
func (f *stateFlag) Type() string { return "state" }

// Set implements pflag.Value.
func (f *stateFlag) Set(s string) error {
	n := fanfarev1.Delivery_State_value[strings.ToUpper(s)]
	if n == 0 {
		return fmt.Errorf("want one of %s", strings.Join(stateNames(), ", "))
	}
	f.value = fanfarev1.Delivery_State(n)
	return nil
}

// statesFlag is a list of states in which a delivery has ended, each in any
// case.
type statesFlag struct{ values []fanfarev1.Delivery_State }

// String implements pflag.Value.
func (f *statesFlag) String() string { return joinStates(f.values) }

// Type implements pflag.Value.
func (f *statesFlag) Type() string { return "states" }

// Set implements pflag.Value. Given again it adds to the list.
func (f *statesFlag) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		var one stateFlag
		if err := one.Set(strings.TrimSpace(part)); err != nil || one.value == fanfarev1.Delivery_PENDING {
			return fmt.Errorf("want some of %s, got %q", strings.Join(endedStateNames(), ", "), part)
		}
		if !slices.Contains(f.values, one.value) {
			f.values = append(f.values, one.value)
		}
	}
	return nil
}

// joinStates shows a list of states.
func joinStates(states []fanfarev1.Delivery_State) string {
	names := make([]string, len(states))
	for i, state := range states {
		names[i] = stateName(state)
	}
	return strings.Join(names, ",")
}

// endedStateNames lists the states of deliveries that have ended.
func endedStateNames() []string {
	pending := stateName(fanfarev1.Delivery_PENDING)
	return slices.DeleteFunc(stateNames(), func(name string) bool { return name == pending })
}

// stateName is a state as people read it.
func stateName(s fanfarev1.Delivery_State) string {
	return strings.ToLower(s.String())
}

// stateNames lists the states a delivery can be in.
func stateNames() []string {
	var names []string
	values := fanfarev1.Delivery_STATE_UNSPECIFIED.Descriptor().Values()
	for i := 1; i < values.Len(); i++ {
		names = append(names, strings.ToLower(string(values.Get(i).Name())))
	}
	return names
}
