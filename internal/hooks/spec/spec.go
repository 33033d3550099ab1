// Package spec is what a hooks file says.
//
// A file is read the way upstream reads it: as YAML 1.1 whatever its name
// (JSON is a part of it), turned into JSON with the types of the structs here
// as a guide, and decoded by encoding/json. So keys match in any case, unknown
// keys are ignored, the last of several equal keys wins, and a scalar becomes
// a string where a string is wanted. The structs must stay plain for that: no
// embedding, no UnmarshalJSON, no any.
//
// What upstream knows is not validated: a wrong regular expression or rule
// type shows when a request comes. The keys that are ours are, so that a
// protection that cannot work is not silently absent.
package spec

import "net/http"

// Hook is one entry of a hooks file.
type Hook struct {
	ID              string     `json:"id"`
	Command         string     `json:"execute-command"`
	Dir             string     `json:"command-working-directory"`
	ResponseMessage string     `json:"response-message"`
	ResponseHeaders []Header   `json:"response-headers"`
	SuccessCode     int        `json:"success-http-response-code"`
	ContentType     string     `json:"incoming-payload-content-type"`
	Methods         []string   `json:"http-methods"`
	CaptureOutput   bool       `json:"include-command-output-in-response"`
	CaptureOnError  bool       `json:"include-command-output-in-response-on-error"`
	JSONParameters  []Argument `json:"parse-parameters-as-json"`
	Arguments       []Argument `json:"pass-arguments-to-command"`
	Environment     []Argument `json:"pass-environment-to-command"`
	Files           []Argument `json:"pass-file-to-command"`
	Rule            *Rule      `json:"trigger-rule"`
	MismatchCode    int        `json:"trigger-rule-mismatch-http-response-code"`
	SoftFailures    bool       `json:"trigger-signature-soft-failures"`

	// What follows upstream does not know.

	// SignatureFailureCode answers a wrong or stale signature instead of 500.
	SignatureFailureCode int `json:"trigger-signature-failure-http-response-code"`
	// Stdin is what the command reads on its standard input.
	Stdin *Argument `json:"pass-stdin-to-command"`
	// StreamOutput answers with the command's output while it runs.
	StreamOutput bool `json:"stream-command-output"`
	// ExitCodes are the statuses by exit code, for captured output.
	ExitCodes map[string]int `json:"exit-code-http-response-codes"`
	// InheritEnvironment names what the command gets of the server's own
	// environment; a name may end in *. Absent means all, as upstream.
	InheritEnvironment []string `json:"inherit-environment"`
	// Timeout ends the command and all it started, as in 30s or 5m.
	Timeout string `json:"command-timeout"`
	// MaxConcurrency is how many of its commands run at a time; 0 is no limit.
	MaxConcurrency int `json:"max-concurrency"`
	// MaxQueue is how many wait then; more are answered 429.
	MaxQueue *int `json:"max-queue"`
	// MaxBodyBytes is a limit below the server's.
	MaxBodyBytes int64 `json:"max-body-bytes"`
	// DeduplicateBy is the id by which a second delivery is recognised.
	DeduplicateBy *Argument `json:"deduplicate-by"`
	// DeduplicateWindow is how long an id is remembered.
	DeduplicateWindow string `json:"deduplicate-window"`
}

// Header is a header of the answer.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Argument says where a value comes from.
type Argument struct {
	Source       string `json:"source"`
	Name         string `json:"name"`
	EnvName      string `json:"envname"`
	Base64Decode bool   `json:"base64decode"`
}

// Rule is a condition: of its keys the first that is there, in the order of
// the fields, is the rule. Without any it is never true.
type Rule struct {
	And   []Rule `json:"and"`
	Or    []Rule `json:"or"`
	Not   *Rule  `json:"not"`
	Match *Match `json:"match"`
}

// Match is a comparison. Which fields count depends on the type.
type Match struct {
	Type      string   `json:"type"`
	Parameter Argument `json:"parameter"`
	Value     string   `json:"value"`
	Regex     string   `json:"regex"`
	Secret    string   `json:"secret"`
	IPRange   string   `json:"ip-range"`

	// What follows upstream does not know.

	// Secrets are accepted besides Secret; SecretFile has one a line.
	Secrets    []string `json:"secrets"`
	SecretFile string   `json:"secret-file"`
	// Algorithm of an hmac rule: sha1, sha224, sha256, sha384 or sha512.
	Algorithm string `json:"algorithm"`
	// Encoding of the signature: hex, base64 or base64url.
	Encoding string `json:"encoding"`
	// Prefix stands before each signature of an hmac rule.
	Prefix string `json:"prefix"`
	// SignedContent is what an hmac rule signs: a text with {body},
	// {timestamp} and {id} in it.
	SignedContent string `json:"signed-content"`
	// Timestamp and MessageID are where those two are found.
	Timestamp *Argument `json:"timestamp"`
	MessageID *Argument `json:"message-id"`
	// Tolerance is how far a timestamp may be from now.
	Tolerance string `json:"tolerance"`
}

// Types of Match.
const (
	MatchValue       = "value"
	MatchRegex       = "regex"
	MatchSHA1        = "payload-hmac-sha1"
	MatchSHA256      = "payload-hmac-sha256"
	MatchSHA512      = "payload-hmac-sha512"
	MatchHashSHA1    = "payload-hash-sha1"
	MatchHashSHA256  = "payload-hash-sha256"
	MatchHashSHA512  = "payload-hash-sha512"
	MatchIPWhitelist = "ip-whitelist"
	MatchScalr       = "scalr-signature"

	MatchStandardWebhooks = "standard-webhooks"
	MatchHMAC             = "hmac"
	MatchTimestamp        = "timestamp"
	MatchCIDR             = "cidr"
)

// Sources of an Argument.
const (
	SourceHeader        = "header"
	SourceURL           = "url"
	SourceQuery         = "query"
	SourcePayload       = "payload"
	SourceRawBody       = "raw-request-body"
	SourceRequest       = "request"
	SourceString        = "string"
	SourceEntirePayload = "entire-payload"
	SourceEntireHeaders = "entire-headers"
	SourceEntireQuery   = "entire-query"

	// SourceBody is ours: the bytes as they were sent, for multipart too.
	SourceBody = "body"
)

// KnownStatus reports whether HTTP has a text for code. Others are not sent.
func KnownStatus(code int) bool { return http.StatusText(code) != "" }
