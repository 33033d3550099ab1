package demo_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/fanfare-dev/fanfare/internal/demo"
)

// What every producer may rely on: a type is dotted words of these characters,
// and an event is at most this large.
const (
	typePattern   = `^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`
	maxEventBytes = 256 << 10
)

func TestPayloads(t *testing.T) {
	payloads := mustPayloads(t)
	if got, atLeast := len(payloads), 100; got < atLeast {
		t.Errorf("%d payloads, want at least %d", got, atLeast)
	}
	validType := regexp.MustCompile(typePattern)
	for _, p := range payloads {
		if !validType.MatchString(p.Type) {
			t.Errorf("%s: not an event type", p.Type)
		}
		if len(p.Data) > maxEventBytes {
			t.Errorf("%s: %d bytes, more than an event may have", p.Type, len(p.Data))
		}
		var object map[string]any
		if err := json.Unmarshal(p.Data, &object); err != nil {
			t.Errorf("%s: not a JSON object: %v", p.Type, err)
		}
	}
}

func TestPayloadTypesAreDistinctAndOrdered(t *testing.T) {
	var types []string
	for _, p := range mustPayloads(t) {
		types = append(types, p.Type)
	}
	ordered := slices.Compact(slices.Sorted(slices.Values(types)))
	if !slices.Equal(types, ordered) {
		t.Errorf("types are not distinct and in order: %q", types)
	}
	for _, want := range []string{"github.issues.opened", "github.pull_request.opened", "github.push"} {
		if !slices.Contains(types, want) {
			t.Errorf("no payload of type %s", want)
		}
	}
}

// A payload's type names its action, where it has one.
func TestPayloadTypesMatchTheirData(t *testing.T) {
	for _, p := range mustPayloads(t) {
		var head struct {
			Action string `json:"action"`
		}
		if err := json.Unmarshal(p.Data, &head); err != nil {
			t.Fatalf("%s: %v", p.Type, err)
		}
		words := strings.Split(p.Type, ".")
		action := ""
		if len(words) == 3 {
			action = words[2]
		}
		if head.Action != action {
			t.Errorf("%s: action is %q", p.Type, head.Action)
		}
	}
}

func TestPayloadsBelongToTheCaller(t *testing.T) {
	mustPayloads(t)[0].Data[0] = 'x'
	if got := mustPayloads(t)[0].Data[0]; got != '{' {
		t.Errorf("a caller's change to Data reached the next call: %q", got)
	}
}

func mustPayloads(t *testing.T) []demo.Payload {
	t.Helper()
	payloads, err := demo.Payloads()
	if err != nil {
		t.Fatal(err)
	}
	return payloads
}
