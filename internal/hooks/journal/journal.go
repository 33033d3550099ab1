// Package journal writes the log of `fanfare hooks`: as upstream does,
//
//	[webhook] 2026/01/31 15:04:05 [1a2b3c] incoming HTTP POST request from …
//
// or as a JSON object a line. Whatever comes from outside stays on its line,
// and secrets are not in it.
package journal

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"
)

// Format is how lines look.
type Format string

// Formats.
const (
	Text Format = "text"
	JSON Format = "json"
)

// MaxLineBytes bounds a line; what is longer is cut.
const MaxLineBytes = 64 << 10

// mask stands where a secret was.
const mask = "***"

// minMasked is the shortest secret that is masked: shorter ones would be found
// in many words that are none.
const minMasked = 6

// Journal is a log. The zero Journal writes nothing. It is safe for concurrent
// use.
type Journal struct {
	format  Format
	secrets atomic.Pointer[strings.Replacer]

	mu  sync.Mutex
	out io.Writer // guarded by mu; nil: silent
}

// New returns a Journal that writes to out; if that is nil, nowhere.
func New(out io.Writer, format Format) *Journal {
	return &Journal{format: format, out: out}
}

// Silent reports whether nothing is written at all.
func (j *Journal) Silent() bool { return j.out == nil }

// Mask makes the journal show none of these secrets, and forget those of the
// last call.
func (j *Journal) Mask(secrets []string) {
	var pairs []string
	for _, secret := range secrets {
		if len(secret) >= minMasked {
			pairs = append(pairs, secret, mask)
		}
	}
	j.secrets.Store(strings.NewReplacer(pairs...))
}

// Printf writes a line that is about no request.
func (j *Journal) Printf(format string, args ...any) {
	j.write(Entry{}, fmt.Sprintf(format, args...))
}

// Request returns what writes lines about one request.
func (j *Journal) Request(id string) Entry { return Entry{journal: j, request: id} }

// Entry writes lines about one request. The zero Entry writes nothing.
type Entry struct {
	journal *Journal
	request string
	hook    string
}

// Hook returns an Entry that knows the hook too.
func (e Entry) Hook(id string) Entry {
	e.hook = id
	return e
}

// Printf writes a line.
func (e Entry) Printf(format string, args ...any) {
	if e.journal != nil && !e.journal.Silent() {
		e.journal.write(e, fmt.Sprintf(format, args...))
	}
}

// Raw writes a block of lines, each behind sign and the request's id, as the
// dumps of -debug are.
func (e Entry) Raw(sign, block string) {
	if e.journal == nil || e.journal.Silent() {
		return
	}
	for line := range strings.Lines(block) {
		line = strings.TrimRight(line, "\r\n")
		if e.journal.format == JSON {
			e.journal.write(e, sign+" "+line)
			continue
		}
		e.journal.append([]byte(sign + " [" + e.request + "] " + e.journal.clean(line) + "\n"))
	}
}

// clean returns a text that stays on its line and tells no secret.
func (j *Journal) clean(text string) string {
	if secrets := j.secrets.Load(); secrets != nil {
		text = secrets.Replace(text)
	}
	if len(text) > MaxLineBytes {
		text = text[:MaxLineBytes] + "…"
	}
	return escape(text)
}

func (j *Journal) write(e Entry, message string) {
	if j.Silent() {
		return
	}
	message = j.clean(message)
	if j.format == JSON {
		j.append(e.json(message))
		return
	}
	prefix := "[webhook] " + time.Now().Format("2006/01/02 15:04:05") + " "
	if e.request != "" {
		prefix += "[" + escape(e.request) + "] "
	}
	j.append([]byte(prefix + message + "\n"))
}

func (e Entry) json(message string) []byte {
	line, err := json.Marshal(struct {
		Time    time.Time `json:"time"`
		Request string    `json:"request,omitempty"`
		Hook    string    `json:"hook,omitempty"`
		Message string    `json:"msg"`
	}{time.Now(), e.request, e.hook, message})
	if err != nil { // only a year beyond 9999 does that
		return nil
	}
	return append(line, '\n')
}

// append writes line in one piece. If nobody can be told, nobody is.
func (j *Journal) append(line []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, _ = j.out.Write(line)
}

// escape replaces what would end a line, move a cursor, or be no UTF-8.
func escape(text string) string {
	if strings.IndexFunc(text, special) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if special(r) {
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func special(r rune) bool {
	return r == utf8.RuneError || r != '\t' && !unicode.IsPrint(r)
}

// sensitive are parts of names whose values are not for a log.
func sensitive() []string {
	return []string{"authorization", "token", "secret", "password", "passwd", "cookie", "api-key", "apikey", "api_key", "access_key", "credential", "signature"}
}

// IsSensitive reports whether what has this name is probably a secret.
func IsSensitive(name string) bool {
	name = strings.ToLower(name)
	for _, part := range sensitive() {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// Value returns value for a log: masked, if its name says that it is secret.
func Value(name, value string) string {
	if IsSensitive(name) {
		return mask
	}
	return value
}

// URI returns a request's URI for a log, with the values of its query masked
// where their names say that they are secret.
func URI(uri string) string {
	path, query, ok := strings.Cut(uri, "?")
	if !ok {
		return uri
	}
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		if name, _, ok := strings.Cut(pair, "="); ok && IsSensitive(name) {
			pairs[i] = name + "=" + mask
		}
	}
	return path + "?" + strings.Join(pairs, "&")
}
