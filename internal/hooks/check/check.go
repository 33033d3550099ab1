// Package check says what is wrong in a hooks file before a request does.
package check

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/fanfare-dev/fanfare/internal/hooks/command"
	"github.com/fanfare-dev/fanfare/internal/hooks/spec"
)

// Problem is something wrong in a hooks file.
type Problem struct {
	Line int
	// Fatal problems make the file unreadable, or a hook of no use. Others
	// are legal, and probably not meant.
	Fatal bool
	Text  string
}

// String returns the problem without its place.
func (p Problem) String() string {
	if p.Fatal {
		return "error: " + p.Text
	}
	return "warning: " + p.Text
}

func (l *lines) note(node *yaml.Node, format string, args ...any) {
	l.problems = append(l.problems, Problem{node.Line, true, fmt.Sprintf(format, args...)})
}

func (l *lines) warn(node *yaml.Node, format string, args ...any) {
	l.problems = append(l.problems, Problem{node.Line, false, fmt.Sprintf(format, args...)})
}

// Found is what Text has found in a file.
type Found struct {
	Problems []Problem
	Hooks    int
	IDs      map[string]int // :: id -> line
}

// Elsewhere returns the problems of the file beside others, whose ids are given
// with the file each is in: with an id twice the server does not start.
func (f Found) Elsewhere(ids map[string]string) []Problem {
	problems := slices.Clone(f.Problems)
	for id, line := range f.IDs {
		if other, ok := ids[id]; ok {
			problems = append(problems, Problem{line, true, fmt.Sprintf("hook %q is in %s already", id, other)})
		}
	}
	return sorted(problems)
}

// Text finds the problems in the text of a hooks file.
func Text(text []byte) Found {
	where := locate(text)
	decoded, err := spec.Decode(text)
	if err != nil {
		if !slices.ContainsFunc(where.problems, func(p Problem) bool { return p.Fatal }) {
			where.problems = append(where.problems, Problem{lineIn(err), true, err.Error()})
		}
		return Found{Problems: sorted(where.problems)}
	}
	c := &checker{lines: where}
	c.duplicates(decoded)
	ids := map[string]int{}
	for i := range decoded {
		path := "[" + strconv.Itoa(i) + "]"
		c.hook(&decoded[i], path)
		c.complete(&decoded[i], path)
		if _, ok := ids[decoded[i].ID]; !ok {
			ids[decoded[i].ID] = c.of(path + ".id")
		}
	}
	return Found{Problems: sorted(where.problems), Hooks: len(decoded), IDs: ids}
}

func sorted(problems []Problem) []Problem {
	slices.SortStableFunc(problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return slices.Compact(problems)
}

// lineIn returns the line that an error of the YAML parser tells.
func lineIn(err error) int {
	match := regexp.MustCompile(`line (\d+)`).FindStringSubmatch(err.Error())
	if match == nil {
		return 1
	}
	line, err := strconv.Atoi(match[1])
	if err != nil {
		return 1
	}
	return line
}

// checker looks at what hooks mean.
type checker struct{ *lines }

func (c *checker) fatal(path, format string, args ...any) {
	c.problems = append(c.problems, Problem{c.of(path), true, fmt.Sprintf(format, args...)})
}

func (c *checker) doubt(path, format string, args ...any) {
	c.problems = append(c.problems, Problem{c.of(path), false, fmt.Sprintf(format, args...)})
}

// complete tells the mistakes in the keys that are ours.
func (c *checker) complete(h *spec.Hook, path string) {
	_, err := h.Complete()
	if err == nil {
		return
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		key, _, _ := strings.Cut(line, ":")
		c.fatal(path+"."+key, "hook %q: %s", h.ID, line)
	}
}

func (c *checker) duplicates(hooks []spec.Hook) {
	first := map[string]int{}
	for i := range hooks {
		if before, ok := first[hooks[i].ID]; ok {
			path := fmt.Sprintf("[%d]", i)
			c.doubt(path+".id", "hook %q is in line %d already, which wins; a reload refuses the file", hooks[i].ID, c.of(fmt.Sprintf("[%d].id", before)))
			continue
		}
		first[hooks[i].ID] = i
	}
}

func (c *checker) hook(h *spec.Hook, path string) {
	say := func(key, format string, args ...any) {
		c.doubt(path+"."+key, "hook %q: "+format, append([]any{h.ID}, args...)...)
	}
	if h.ID == "" {
		say("id", "it has no id, and is at the prefix itself")
	}
	if h.Command == "" {
		c.fatal(path, "hook %q: it has no execute-command", h.ID)
	} else if _, err := command.Find(h.Command, h.Dir); err != nil {
		say("execute-command", "%v", err)
	} else if h.Dir != "" && !filepath.IsAbs(h.Dir) && !filepath.IsAbs(h.Command) {
		say("execute-command", "a relative command in a relative command-working-directory is looked up here and then there, and never found")
	}
	for key, code := range map[string]int{
		"success-http-response-code": h.SuccessCode, "trigger-rule-mismatch-http-response-code": h.MismatchCode,
		"trigger-signature-failure-http-response-code": h.SignatureFailureCode,
	} {
		if code != 0 && !spec.KnownStatus(code) {
			say(key, "HTTP has no status %d; 200 is sent", code)
		}
	}
	c.output(h, say)
	c.arguments(h, path)
	if h.Rule == nil {
		say("trigger-rule", "it has no trigger-rule: whoever knows the URL triggers it")
		return
	}
	c.rule(h, h.Rule, path+".trigger-rule", false)
}

func (c *checker) output(h *spec.Hook, say func(key, format string, args ...any)) {
	answered := h.CaptureOutput || h.StreamOutput
	if h.ResponseMessage != "" && answered {
		say("response-message", "response-message is not sent: the command's output is")
	}
	if h.CaptureOnError && !h.CaptureOutput {
		say("include-command-output-in-response-on-error", "without include-command-output-in-response it does not count")
	}
	if len(h.ExitCodes) > 0 && !answered {
		say("exit-code-http-response-codes", "without include-command-output-in-response the answer does not wait for the exit code")
	}
}

func (c *checker) arguments(h *spec.Hook, path string) {
	for key, args := range map[string][]spec.Argument{
		"pass-arguments-to-command": h.Arguments, "pass-environment-to-command": h.Environment,
		"pass-file-to-command": h.Files, "parse-parameters-as-json": h.JSONParameters,
	} {
		for i := range args {
			c.argument(h, &args[i], fmt.Sprintf("%s.%s[%d]", path, key, i))
		}
	}
	for key, arg := range map[string]*spec.Argument{"pass-stdin-to-command": h.Stdin, "deduplicate-by": h.DeduplicateBy} {
		if arg != nil {
			c.argument(h, arg, path+"."+key)
		}
	}
}

func (c *checker) argument(h *spec.Hook, arg *spec.Argument, path string) {
	switch arg.Source {
	case spec.SourceHeader, spec.SourceURL, spec.SourceQuery, spec.SourcePayload, spec.SourceString, spec.SourceRawBody, spec.SourceBody,
		spec.SourceEntirePayload, spec.SourceEntireHeaders, spec.SourceEntireQuery:
	case spec.SourceRequest:
		switch strings.ToLower(arg.Name) {
		case "method", "remote-addr", "client-ip":
		default:
			c.fatal(path, "hook %q: source request has method, remote-addr and client-ip, not %q", h.ID, arg.Name)
		}
	default:
		c.fatal(path, "hook %q: there is no source %q", h.ID, arg.Source)
	}
}

func (c *checker) rule(h *spec.Hook, r *spec.Rule, path string, negated bool) {
	var there []string
	for _, key := range []struct {
		name string
		is   bool
	}{{"and", r.And != nil}, {"or", r.Or != nil}, {"not", r.Not != nil}, {"match", r.Match != nil}} {
		if key.is {
			there = append(there, key.name)
		}
	}
	switch {
	case len(there) == 0:
		c.doubt(path, "hook %q: a rule without and, or, not and match is never true", h.ID)
		return
	case len(there) > 1:
		c.doubt(path, "hook %q: of %s in one rule only the first counts", h.ID, strings.Join(there, ", "))
	}
	switch there[0] {
	case "and":
		c.rules(h, r.And, path+".and", negated)
	case "or":
		c.rules(h, r.Or, path+".or", negated)
	case "not":
		c.rule(h, r.Not, path+".not", !negated)
	case "match":
		c.match(h, r.Match, path+".match", negated)
	}
}

func (c *checker) rules(h *spec.Hook, rules []spec.Rule, path string, negated bool) {
	for i := range rules {
		c.rule(h, &rules[i], fmt.Sprintf("%s[%d]", path, i), negated)
	}
}

func (c *checker) match(h *spec.Hook, m *spec.Match, path string, negated bool) {
	needsParameter := true
	switch m.Type {
	case spec.MatchValue, spec.MatchTimestamp, spec.MatchHMAC:
	case spec.MatchRegex:
		if _, err := regexp.Compile(m.Regex); err != nil {
			c.fatal(path+".regex", "hook %q: %v", h.ID, err)
		}
	case spec.MatchSHA1, spec.MatchSHA256, spec.MatchSHA512, spec.MatchHashSHA1, spec.MatchHashSHA256, spec.MatchHashSHA512:
		c.hmac(h, m, path)
	case spec.MatchIPWhitelist, spec.MatchScalr:
		needsParameter = false
		c.simple(h, m, path)
	case spec.MatchStandardWebhooks, spec.MatchCIDR:
		needsParameter = m.Parameter.Source != ""
	default:
		c.fatal(path+".type", "hook %q: there is no rule type %q; it is never true", h.ID, m.Type)
	}
	if !needsParameter {
		return
	}
	c.argument(h, &m.Parameter, path+".parameter")
	if negated {
		c.doubt(path, "hook %q: not of a match is true when %s %s is missing, too", h.ID, m.Parameter.Source, m.Parameter.Name)
	}
}

func (c *checker) hmac(h *spec.Hook, m *spec.Match, path string) {
	if len(m.AllSecrets()) == 0 && m.SecretFile == "" {
		c.fatal(path, "hook %q: %s without a secret fails every request", h.ID, m.Type)
	}
	if after, ok := strings.CutPrefix(m.Type, "payload-hash-"); ok {
		c.doubt(path+".type", "hook %q: %s is an old name of payload-hmac-%s", h.ID, m.Type, after)
	}
	if strings.HasSuffix(m.Type, "sha1") {
		c.doubt(path+".type", "hook %q: SHA-1 is weak; most senders offer SHA-256", h.ID)
	}
}

// simple checks the types without a parameter.
func (c *checker) simple(h *spec.Hook, m *spec.Match, path string) {
	if m.Type == spec.MatchScalr {
		if m.Secret == "" {
			c.fatal(path, "hook %q: %s without a secret fails every request", h.ID, m.Type)
		}
		return
	}
	if strings.TrimSpace(m.IPRange) == "" {
		c.fatal(path, "hook %q: without ip-range no address is in it", h.ID)
	}
	for entry := range strings.FieldsSeq(m.IPRange) {
		if _, err := spec.Prefix(entry); err != nil {
			c.fatal(path+".ip-range", "hook %q: ip-range: %v", h.ID, err)
		}
	}
}
