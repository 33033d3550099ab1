package blackbox_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// checked runs `fanfare hooks check` in dir.
func checked(t *testing.T, dir string, args ...string) (output string, code int) {
	t.Helper()
	cmd := exec.Command(fanfare, append([]string{"hooks", "check"}, args...)...) //nolint:noctx // the test ends it itself
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// Each problem is told with its line.
func TestCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "hooks.yaml"), `# a comment
- id: one
  execute-command: /bin/true
  execute_command: /bin/false
  success-http-response-code: 799
  pass-arguments-to-command:
    - source: payload
      name: a
    - source: cookie
      name: a
- id: two
  trigger-rule:
    and:
      - match:
          type: regex
          regex: '('
          parameter: {source: url, name: a}
      - match: {type: sorcery, parameter: {source: url, name: a}}
      - not:
          match: {type: value, value: a, parameter: {source: header, name: X-A}}
      - match:
          type: payload-hmac-sha1
          parameter: {source: header, name: X-Sig}
      - match: {type: ip-whitelist, ip-range: "10.0.0.0/8,::1"}
      - {}
- id: one
  execute-command: /bin/true
  command-timeout: soon
  trigger-rule: {or: [], match: {type: value, parameter: {source: string}}}
`)
	output, code := checked(t, dir, "hooks.yaml")
	want := []string{
		`hooks.yaml:2: warning: hook "one": it has no trigger-rule`,
		`hooks.yaml:4: warning: [0]: the key "execute_command" is not known, and does not count; is execute-command meant?`,
		`hooks.yaml:5: warning: hook "one": HTTP has no status 799; 200 is sent`,
		`hooks.yaml:9: error: hook "one": there is no source "cookie"`,
		`hooks.yaml:11: error: hook "two": it has no execute-command`,
		`hooks.yaml:16: error: hook "two": error parsing regexp`,
		`hooks.yaml:18: error: hook "two": there is no rule type "sorcery"; it is never true`,
		`hooks.yaml:20: warning: hook "two": not of a match is true when header X-A is missing, too`,
		`hooks.yaml:21: error: hook "two": payload-hmac-sha1 without a secret fails every request`,
		`hooks.yaml:22: warning: hook "two": SHA-1 is weak`,
		`hooks.yaml:24: error: hook "two": ip-range: want an address or a CIDR range, got "10.0.0.0/8,::1"`,
		`hooks.yaml:25: warning: hook "two": a rule without and, or, not and match is never true`,
		`hooks.yaml:26: warning: hook "one" is in line 2 already, which wins; a reload refuses the file`,
		`hooks.yaml:28: error: hook "one": command-timeout: want a duration such as 30s or 5m, got "soon"`,
		`hooks.yaml:29: warning: hook "one": of or, match in one rule only the first counts`,
		`hooks.yaml: 3 hooks, 7 errors, 8 warnings`,
	}
	got := strings.Split(strings.TrimSpace(output), "\n")
	for i, line := range want {
		if i >= len(got) || !strings.HasPrefix(got[i], line) {
			t.Fatalf("line %d is not %q:\n%s", i+1, line, output)
		}
	}
	if code != 1 || len(got) != len(want) {
		t.Errorf("exit code %d, %d lines:\n%s", code, len(got), output)
	}
}

// What cannot be read at all has a line too; what is fine has none.
func TestCheckTypes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cases := map[string]struct {
		text, want string
		code       int
	}{
		"scalar for a list": {"- id: x\n  http-methods: POST\n", `:2: error: \[0\]\.http-methods: want a list`, 1},
		"text for a bool":   {"- id: x\n  include-command-output-in-response: 'true'\n", `:2: error: \[0\]\.include-command-output-in-response: want true or false, got "true"`, 1},
		"text for a number": {"- id: x\n\n  max-concurrency: '1'\n", `:3: error: \[0\]\.max-concurrency: want a number`, 1},
		"mapping":           {"id: x\n", `:1: error: the file: want a list`, 1},
		"broken":            {"- id: x\n  - y\n", `:\d: error: .*line`, 1},
		"slash escape":      {`[{"id": "\/"}]`, `:1: error: .*unknown escape`, 1},
		"twice":             {"- id: x\n  id: y\n  execute-command: /bin/true\n", `:2: warning: \[0\]: the key "id" is there twice`, 0},
		"fine":              {"- {id: x, execute-command: /bin/true, trigger-rule: {match: {type: value, value: 1, parameter: {source: url, name: a}}}}\n", `^\S+: 1 hooks, 0 errors, 0 warnings\n$`, 0},
		"merged":            {"- &a {id: x, execute-command: /bin/true, trigger-rule: {and: []}}\n- {<<: *a, id: y}\n", `^\S+: 2 hooks, 0 errors, 0 warnings\n$`, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := strings.ReplaceAll(name, " ", "-")
			write(t, filepath.Join(dir, file), c.text)
			output, code := checked(t, dir, file)
			if !regexp.MustCompile(c.want).MatchString(output) || code != c.code {
				t.Errorf("exit code %d, want %d; no match of %s in\n%s", code, c.code, c.want, output)
			}
		})
	}
}

// With a request it says what will be done, rule by rule.
func TestCheckRequest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "hooks.json"), `[{"id": "x", "execute-command": "/bin/echo", "http-methods": ["post"], "response-message": "thanks",
		"pass-arguments-to-command": [{"source": "payload", "name": "a.b"}, {"source": "payload", "name": "none"}],
		"pass-environment-to-command": [{"source": "header", "name": "X-A", "envname": "A"}],
		"trigger-rule": {"or": [
			{"match": {"type": "value", "value": "1", "parameter": {"source": "url", "name": "v"}}},
			{"not": {"match": {"type": "value", "value": "1", "parameter": {"source": "header", "name": "X-B"}}}},
			{"match": {"type": "sorcery", "parameter": {"source": "string", "name": "x"}}}]}}]`)
	write(t, filepath.Join(dir, "request"), "POST /hooks/x?v=2\nContent-Type: application/json\nX-A: 7\n\n{\"a\": {\"b\": 1}}\n")
	output, _ := checked(t, dir, "--request", "request", "hooks.json")
	const want = `POST /hooks/x?v=2
  hook     "x"
  body     16 bytes of "application/json"
  rule     trigger-rule.or[0].match (value of url v): false
  rule     trigger-rule.or[1].not.match (value of header X-B): false: parameter node not found: X-B
  rule     trigger-rule.or[1].not: true: parameter node not found: X-B
  rule     trigger-rule.or[2].match (sorcery of string x): not asked
  rule     trigger-rule.or: true
  warning  error extracting command arguments: couldn't retrieve argument for {Source:payload Name:none EnvName: Base64Decode:false}
  run      /bin/echo
    arg    "1"
    arg    ""
    env    "A=7"
  answer   200 "thanks", at once
`
	if !strings.HasSuffix(output, want) {
		t.Errorf("it says\n%s\nwant\n%s", output, want)
	}
	for request, want := range map[string]string{
		"GET /hooks/x":   "405: the method is not one of POST",
		"POST /hooks/y":  `404 "Hook not found."`,
		"POST /x":        "404: the path is not below /hooks/",
		"POST /hooks//x": "301, Location: /hooks/x",
	} {
		name := write(t, filepath.Join(dir, "other"), request)
		if output, _ := checked(t, dir, "hooks.json", "-request="+name); !strings.Contains(output, "answer   "+want) {
			t.Errorf("%s: it says\n%s", request, output)
		}
	}
	if _, code := checked(t, dir); code != 2 {
		t.Errorf("without a file the exit code is %d", code)
	}
	if output, code := checked(t, dir, "none"); code != 1 || !strings.Contains(output, "none") {
		t.Errorf("of no file the exit code is %d, and it says %s", code, output)
	}
}

// A directory is checked as it is served; an id that is in two files, which the
// server refuses to start with, is told.
func TestCheckDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const rule = "trigger-rule: {match: {type: value, value: 1, parameter: {source: url, name: a}}}"
	write(t, filepath.Join(dir, "a.yaml"), "- {id: x, execute-command: /bin/true, "+rule+"}\n- {id: z, execute-command: /bin/true, "+rule+"}\n")
	write(t, filepath.Join(dir, "b.yml"), "\n- {id: z, execute-command: /bin/true, "+rule+"}\n")
	write(t, filepath.Join(dir, "c.txt"), "{")
	output, code := checked(t, dir, dir)
	want := dir + "/a.yaml: 2 hooks, 0 errors, 0 warnings\n" +
		dir + "/b.yml:2: error: hook \"z\" is in " + dir + "/a.yaml already\n" +
		dir + "/b.yml: 1 hooks, 1 errors, 0 warnings\n"
	if output != want || code != 1 {
		t.Errorf("exit code %d, it says\n%s\nwant\n%s", code, output, want)
	}
	if output, code := checked(t, dir, "a.yaml", dir+"/b.yml"); code != 1 || !strings.Contains(output, `b.yml:2: error: hook "z" is in a.yaml already`) {
		t.Errorf("exit code %d, it says\n%s", code, output)
	}
	if output, code := checked(t, dir, t.TempDir()); code != 0 || !strings.Contains(output, "there is no hooks file in this directory") {
		t.Errorf("of an empty directory: exit code %d, it says\n%s", code, output)
	}
}

// A relative command is looked up from here and run from there, as upstream's:
// the warning says so.
func TestCheckRelative(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	script(t, filepath.Join(dir, "sub"), "run", "#!/bin/sh\n")
	write(t, filepath.Join(dir, "hooks.yaml"), "- {id: x, execute-command: run, command-working-directory: sub, trigger-rule: {and: []}}\n"+
		"- {id: z, execute-command: run, command-working-directory: "+dir+"/sub, trigger-rule: {and: []}}\n")
	output, _ := checked(t, dir, "hooks.yaml")
	if strings.Count(output, "warning") != 2 || !strings.Contains(output, `hooks.yaml:1: warning: hook "x": a relative command in a relative command-working-directory`) {
		t.Errorf("it says\n%s", output)
	}
}

// Who sends the request, which proxies are believed, which methods count and what
// the request is recognised by: all that the server would look at.
func TestCheckRequestFrom(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, `[{"id": "x", "execute-command": "/bin/true", "max-body-bytes": 10, "deduplicate-by": {"source": "header", "name": "X-Id"}, "deduplicate-window": "1h",
		"trigger-rule": {"and": [{"match": {"type": "cidr", "ip-range": "192.0.2.0/24"}}, {"match": {"type": "ip-whitelist", "ip-range": "10.0.0.0/8"}}]}}]`)
	cases := []struct {
		name, request string
		args          []string
		want          string
	}{
		{"all is well", "POST /hooks/x\nX-Id: 7\nX-Forwarded-For: 192.0.2.1", []string{"-from", "10.0.0.1", "-trusted-proxies", "10.0.0.0/8"}, `once     "7": for 1h0m0s`},
		{"elsewhere", "POST /hooks/x\nX-Id: 7\nX-Forwarded-For: 192.0.2.1", nil, `trigger-rule.and\[0\].match \(cidr\): false`},
		{"ipv6", "POST /hooks/x", []string{"--from=::1"}, `match \(cidr\): false`},
		{"no id", "POST /hooks/x\nX-Forwarded-For: 192.0.2.1", []string{"-from", "10.0.0.1", "-trusted-proxies", "10.0.0.0/8"}, `answer   400 "The request has no id to recognise it by\.": parameter node not found: X-Id`},
		{"method", "GET /hooks/x", []string{"-http-methods", "post,put"}, `answer   405: the method is not one of POST, PUT\n`},
		{"too large", "POST /hooks/x\n\n12345678901", nil, `answer   413 .*: the body has 11 bytes, and may have 10\n`},
		{"no address", "POST /hooks/x", []string{"-from", "localhost"}, `-from is "localhost"; want an address`},
	}
	for _, c := range cases {
		name := write(t, filepath.Join(dir, strings.ReplaceAll(c.name, " ", "-")), c.request)
		output, _ := checked(t, dir, append([]string{"hooks.json", "-request", name}, c.args...)...)
		if !regexp.MustCompile(c.want).MatchString(output) {
			t.Errorf("%s: it says\n%s", c.name, output)
		}
	}
}
