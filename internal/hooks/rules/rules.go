// Package rules decides whether a request triggers a hook.
//
// A rule gives an answer and an error, and both count: the kind of the error
// says who stops at it. A *request.NodeError (something is not there) makes a
// match false and is passed over by `or`; a *SignatureError (a signature or a
// timestamp is wrong) ends everything unless the hook has soft failures and it
// is below an `or`; any other error (the rule cannot be evaluated) ends
// everything. This is upstream's, with its consequences: `not` of a match on
// something that is not there is true.
package rules

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/fanfare-dev/fanfare/internal/hooks/request"
	"github.com/fanfare-dev/fanfare/internal/hooks/spec"
)

// SignatureError says that a request is not from who it should be from, or too
// old. It never has the expected signature in it.
type SignatureError struct{ Reason string }

// Error implements error.
func (e *SignatureError) Error() string { return e.Reason }

// Input is what rules are evaluated on.
type Input struct {
	Request *request.Request
	Now     time.Time
	// SoftFailures is the hook's trigger-signature-soft-failures.
	SoftFailures bool
	// Logf is told of deprecated rules; may be nil.
	Logf request.Logf
	// Trace is told of each match that is evaluated; may be nil.
	Trace func(Step)
}

// Step is one rule that was evaluated, in the order in which they end.
type Step struct {
	// Path is where the rule is, as in trigger-rule.and[0].match.
	Path string
	// About is what a match looks at; empty for other rules.
	About  string
	Result bool
	Err    error
	// Skipped says that the answer was known before.
	Skipped bool
}

// Rule is a rule that was made ready. It is safe for concurrent use.
type Rule struct {
	path     string
	about    string
	operator operator
	children []*Rule
	match    matcher
}

type operator int

const (
	never operator = iota
	and
	or
	not
	match
)

// matcher evaluates one match.
type matcher func(Input) (bool, error)

// Compile makes a rule ready. nil is true always, so it stays nil. A mistake
// in it is told by Evaluate, when the mistake is met.
func Compile(rule *spec.Rule) *Rule { return compile(rule, "trigger-rule") }

func compile(rule *spec.Rule, path string) *Rule {
	switch {
	case rule == nil:
		return nil
	case rule.And != nil:
		return &Rule{path: path + ".and", operator: and, children: compileAll(rule.And, path+".and")}
	case rule.Or != nil:
		return &Rule{path: path + ".or", operator: or, children: compileAll(rule.Or, path+".or")}
	case rule.Not != nil:
		return &Rule{path: path + ".not", operator: not, children: []*Rule{compile(rule.Not, path+".not")}}
	case rule.Match != nil:
		return &Rule{path: path + ".match", about: about(rule.Match), operator: match, match: newMatcher(rule.Match)}
	}
	return &Rule{path: path, operator: never}
}

func compileAll(rules []spec.Rule, path string) []*Rule {
	all := make([]*Rule, len(rules))
	for i := range rules {
		all[i] = compile(&rules[i], fmt.Sprintf("%s[%d]", path, i))
	}
	return all
}

// about says in words what a match looks at.
func about(m *spec.Match) string {
	if m.Parameter.Source == "" {
		return m.Type
	}
	return fmt.Sprintf("%s of %s %s", m.Type, m.Parameter.Source, m.Parameter.Name)
}

// Evaluate returns whether the rule is true. The answer counts even if there
// is an error, provided that it is a *request.NodeError.
func (r *Rule) Evaluate(in Input) (bool, error) {
	if r == nil {
		return true, nil
	}
	result, err := r.evaluate(in)
	if in.Trace != nil {
		in.Trace(Step{Path: r.path, About: r.about, Result: result, Err: err})
	}
	return result, err
}

func (r *Rule) evaluate(in Input) (bool, error) {
	switch r.operator {
	case and:
		return r.all(in)
	case or:
		return r.any(in)
	case not:
		result, err := r.children[0].Evaluate(in)
		return !result, err
	case match:
		return r.match(in)
	case never:
	}
	return false, nil
}

func (r *Rule) all(in Input) (bool, error) {
	for i, child := range r.children {
		result, err := child.Evaluate(in)
		if err != nil || !result {
			skip(in, r.children[i+1:])
			return false, err
		}
	}
	return true, nil
}

func (r *Rule) any(in Input) (bool, error) {
	for i, child := range r.children {
		result, err := child.Evaluate(in)
		if err != nil && !passedOver(err, in.SoftFailures) {
			skip(in, r.children[i+1:])
			return false, err
		}
		if result {
			skip(in, r.children[i+1:])
			return true, nil
		}
	}
	return false, nil
}

// passedOver reports whether an `or` goes on behind err.
func passedOver(err error, softFailures bool) bool {
	if _, ok := errors.AsType[*SignatureError](err); ok {
		return softFailures
	}
	_, ok := errors.AsType[*request.NodeError](err)
	return ok
}

func skip(in Input, rules []*Rule) {
	for _, rule := range rules {
		if in.Trace != nil {
			in.Trace(Step{Path: rule.path, About: rule.about, Skipped: true})
		}
	}
}

// newMatcher makes a match ready.
func newMatcher(m *spec.Match) matcher {
	switch m.Type { // those without a parameter
	case spec.MatchIPWhitelist:
		return ipWhitelist(m)
	case spec.MatchScalr:
		return scalr(m)
	case spec.MatchStandardWebhooks:
		return standardWebhooks(m)
	case spec.MatchCIDR:
		return cidr(m)
	}
	compare := newComparer(m)
	return func(in Input) (bool, error) {
		value, err := in.Request.Value(m.Parameter)
		if err != nil {
			return false, err
		}
		return compare(in, value)
	}
}

// comparer says whether the value of a match's parameter is good.
type comparer func(in Input, value string) (bool, error)

func newComparer(m *spec.Match) comparer {
	switch m.Type {
	case spec.MatchValue:
		return func(_ Input, value string) (bool, error) { return equal(value, m.Value), nil }
	case spec.MatchRegex:
		return regex(m)
	case spec.MatchTimestamp:
		return timestamp(m)
	case spec.MatchHMAC:
		return configuredHMAC(m)
	}
	if algorithm, deprecated, ok := payloadHMAC(m.Type); ok {
		return bodyHMAC(m, algorithm, deprecated)
	}
	return func(Input, string) (bool, error) { return false, nil }
}

func regex(m *spec.Match) comparer {
	pattern, err := regexp.Compile(m.Regex)
	return func(_ Input, value string) (bool, error) {
		if err != nil {
			return false, err
		}
		return pattern.MatchString(value), nil
	}
}
