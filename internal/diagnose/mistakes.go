package diagnose

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/fanfare-dev/fanfare/signature"
)

// maxUnpacked bounds a body that is unpacked to be looked at.
const maxUnpacked = 16 << 20

// A mistake is put right in header, body or secrets, and says in words what was
// wrong. The first of each kind is none.
type (
	headerMistake struct {
		header http.Header
		says   string
	}
	bodyMistake struct {
		body []byte
		says string
	}
	secretMistake struct {
		secrets []string
		says    string
	}
)

// headerMistakes are what happens to the headers on the way.
func headerMistakes(r Request) []headerMistake {
	all := []headerMistake{{header: r.Header}}
	changed := func(says string, change func(http.Header)) {
		header := r.Header.Clone()
		change(header)
		all = append(all, headerMistake{header, says})
	}
	if r.Header.Get("Svix-Signature") != "" {
		changed("the headers are svix-id, svix-timestamp and svix-signature: give them as webhook-id, webhook-timestamp and webhook-signature", func(h http.Header) {
			h.Set(signature.HeaderID, h.Get("Svix-Id"))
			h.Set(signature.HeaderTimestamp, h.Get("Svix-Timestamp"))
			h.Set(signature.HeaderSignature, h.Get("Svix-Signature"))
		})
	}
	if value := r.Header.Get(signature.HeaderSignature); value != "" {
		changed("the header "+signature.HeaderSignature+" has lost its version, `v1,`", func(h http.Header) {
			h.Set(signature.HeaderSignature, "v1,"+value)
		})
		changed("the header "+signature.HeaderSignature+" has quotes around it, or spaces where there were none", func(h http.Header) {
			h.Set(signature.HeaderSignature, strings.ReplaceAll(strings.Trim(strings.TrimSpace(value), `"'`), ", ", ","))
		})
		changed("the header "+signature.HeaderSignature+" was percent-decoded as a form: its `+` have become spaces", func(h http.Header) {
			version, mark, _ := strings.Cut(value, ",")
			h.Set(signature.HeaderSignature, version+","+strings.ReplaceAll(mark, " ", "+"))
		})
	}
	if value := r.Header.Get(signature.HeaderTimestamp); len(value) == len("1700000000000") {
		changed("the header "+signature.HeaderTimestamp+" is in milliseconds, it was sent in seconds", func(h http.Header) {
			h.Set(signature.HeaderTimestamp, value[:len(value)-3])
		})
	}
	return all
}

// bodyMistakes are what frameworks, editors and shells do to a body.
func bodyMistakes(r Request) []bodyMistake {
	body := r.Body
	all := []bodyMistake{{body: body}}
	add := func(says string, changed []byte, ok bool) {
		if ok && !bytes.Equal(changed, body) {
			all = append(all, bodyMistake{changed, says})
		}
	}
	add("the body has a line end at its end that was not sent", bytes.TrimRight(body, "\r\n"), true)
	add("the body lacks the line end at its end", append(bytes.Clone(body), '\n'), true)
	add("the body lacks the line end at its end", append(bytes.Clone(body), "\r\n"...), true)
	add("the body's line ends have become CR LF", bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n")), true)
	add("the body's line ends have lost their CR", bytes.ReplaceAll(bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n")), true)
	add("the body has a byte order mark in front that was not sent", bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), true)
	add("the body is a quoted string of itself: it was encoded as JSON once more", unquoted(body), true)
	add("the body is in base64", unbase64(body), true)
	add("the body was percent-encoded", unescaped(body), true)
	add("the body is compressed: it must be unpacked first", unzipped(body), true)
	if json.Valid(body) {
		for _, encoded := range encodings(body) {
			add("the body was decoded and encoded as JSON anew ("+encoded.says+"): keep the bytes as they were received", encoded.body, encoded.body != nil)
		}
	}
	return all
}

// encodings are ways to write the same JSON that senders use: if the signature
// holds with one of them, then that is what was sent, and not what is here.
func encodings(body []byte) []bodyMistake {
	var compact, indented bytes.Buffer
	var all []bodyMistake
	if json.Compact(&compact, body) == nil {
		all = append(all, bodyMistake{compact.Bytes(), "it was sent without white space"})
	}
	for indent, says := range map[string]string{"  ": "two spaces", "    ": "four spaces", "\t": "tabs"} {
		indented.Reset()
		if json.Indent(&indented, compact.Bytes(), "", indent) == nil {
			all = append(all, bodyMistake{bytes.Clone(indented.Bytes()), "it was sent indented with " + says})
		}
	}
	all = append(all,
		bodyMistake{spaced(compact.Bytes()), "it was sent with a space after each colon and comma, as Python writes it"},
		bodyMistake{escaped(compact.Bytes(), false), "it was sent with \\u escapes for what is not ASCII"},
		bodyMistake{escaped(compact.Bytes(), true), "it was sent with \\u escapes, and with a space after each colon and comma, as Python writes it"},
		bodyMistake{raw(compact.Bytes()), "it was sent without \\u escapes"},
		bodyMistake{bytes.ReplaceAll(compact.Bytes(), []byte("/"), []byte(`\/`)), "it was sent with \\/ for /, as PHP writes it"},
		bodyMistake{bytes.ReplaceAll(compact.Bytes(), []byte(`\/`), []byte("/")), "it was sent with / where here is \\/"},
		bodyMistake{sorted(body), "it was sent with sorted keys"},
		bodyMistake{enveloped(compact.Bytes()), "the envelope was sent without white space, its data with a space after each colon and comma"},
	)
	return all
}

// enveloped writes a Standard Webhooks body as Fanfare does where the data was
// published with spaces: it is passed on as it came, in an envelope without any.
// nil if it is no such body.
func enveloped(compact []byte) []byte {
	var keys map[string]json.RawMessage
	if json.Unmarshal(compact, &keys) != nil || len(keys) != 3 || keys["type"] == nil || keys["timestamp"] == nil || keys["data"] == nil {
		return nil
	}
	return slices.Concat([]byte(`{"type":`), keys["type"], []byte(`,"timestamp":`), keys["timestamp"],
		[]byte(`,"data":`), spaced(keys["data"]), []byte("}"))
}

// spaced puts a space behind each colon and comma that is not in a string.
func spaced(compact []byte) []byte {
	var b bytes.Buffer
	quoted := false
	for i, c := range compact {
		b.WriteByte(c)
		switch {
		case c == '"' && (!quoted || !escapedAt(compact, i)):
			quoted = !quoted
		case !quoted && (c == ':' || c == ','):
			b.WriteByte(' ')
		}
	}
	return b.Bytes()
}

// escapedAt reports whether an odd number of backslashes stands in front of i.
func escapedAt(text []byte, i int) bool {
	n := 0
	for i-n > 0 && text[i-n-1] == '\\' {
		n++
	}
	return n%2 == 1
}

// escaped writes what is not ASCII with \u.
func escaped(compact []byte, python bool) []byte {
	var b bytes.Buffer
	for _, r := range string(compact) {
		switch {
		case r < 0x80:
			b.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			b.WriteString(`\u` + hex4(0xd800+r>>10) + `\u` + hex4(0xdc00+r&0x3ff))
		default:
			b.WriteString(`\u` + hex4(r))
		}
	}
	if python {
		return spaced(b.Bytes())
	}
	return b.Bytes()
}

func hex4(r rune) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15]})
}

// raw writes each value again without escapes; nil if that cannot be done.
func raw(compact []byte) []byte {
	decoder := json.NewDecoder(bytes.NewReader(compact))
	decoder.UseNumber()
	var b bytes.Buffer
	depth, inObject, atValue := []bool{}, false, false
	for first := true; ; {
		token, err := decoder.Token()
		if err == io.EOF {
			return b.Bytes()
		}
		if err != nil {
			return nil
		}
		closing := token == json.Delim('}') || token == json.Delim(']')
		switch {
		case atValue:
			b.WriteByte(':')
		case !first && !closing:
			b.WriteByte(',')
		}
		first = false
		switch v := token.(type) {
		case json.Delim:
			b.WriteString(v.String())
			if closing {
				depth = depth[:len(depth)-1]
			} else {
				depth = append(depth, v == '{')
				first = true
			}
			inObject, atValue = len(depth) > 0 && depth[len(depth)-1], false
			continue
		case string:
			b.Write(plainString(v))
		case json.Number:
			b.WriteString(v.String())
		default:
			text, _ := json.Marshal(v) // true, false, null
			b.Write(text)
		}
		atValue = inObject && !atValue
	}
}

// plainString is a JSON string with no more escapes than must be.
func plainString(s string) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(s) // a string can always be encoded
	return bytes.TrimRight(b.Bytes(), "\n")
}

// sorted writes objects with their keys in order.
func sorted(body []byte) []byte {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return nil
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(value) != nil {
		return nil
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

func unquoted(body []byte) []byte {
	var text string
	if json.Unmarshal(body, &text) != nil {
		return body
	}
	return []byte(text)
}

func unbase64(body []byte) []byte {
	decoded, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(body)))
	if err != nil {
		return body
	}
	return decoded
}

func unescaped(body []byte) []byte {
	if text, err := url.QueryUnescape(string(body)); err == nil {
		return []byte(text)
	}
	return body
}

func unzipped(body []byte) []byte {
	reader, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return body
	}
	unpacked, err := io.ReadAll(io.LimitReader(reader, maxUnpacked))
	if err != nil {
		return body
	}
	return unpacked
}

// secretMistakes are what happens to a secret between the page it is copied from
// and the program.
func secretMistakes(secrets []string) []secretMistake {
	all := []secretMistake{{secrets: secrets}}
	add := func(says string, change func(string) string) {
		var changed []string
		differs := false
		for _, s := range secrets {
			c := change(s)
			differs = differs || c != s
			changed = append(changed, c)
		}
		if differs {
			all = append(all, secretMistake{changed, says})
		}
	}
	const prefix = "whsec_"
	add("the secret has white space or quotes around it", func(s string) string { return strings.Trim(s, " \t\r\n\"'`") })
	add("the secret lacks its prefix, "+prefix, func(s string) string { return prefix + strings.TrimPrefix(s, prefix) })
	add("the sender uses the text behind "+prefix+" as the key, without decoding it from base64", func(s string) string {
		return asSecret([]byte(strings.TrimPrefix(s, prefix)))
	})
	add("the sender uses the whole text, "+prefix+" included, as the key, without decoding it from base64", func(s string) string {
		return asSecret([]byte(s))
	})
	add("the secret is in the URL-safe alphabet of base64, or without padding", func(s string) string {
		text := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(strings.TrimPrefix(s, prefix), "="))
		key, err := base64.RawStdEncoding.DecodeString(text)
		if err != nil {
			return s
		}
		return asSecret(key)
	})
	add("the secret is in hexadecimal", func(s string) string {
		key, err := hex.DecodeString(strings.TrimPrefix(s, prefix))
		if err != nil {
			return s
		}
		return asSecret(key)
	})
	add("the secret still is base64 of the secret: it was encoded twice", func(s string) string {
		text, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return s
		}
		return string(text)
	})
	return all
}

// asSecret writes a key as a secret.
func asSecret(key []byte) string { return "whsec_" + base64.StdEncoding.EncodeToString(key) }
