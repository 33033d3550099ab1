package serve

import (
	"bytes"
	"encoding/json"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func TestPathAt(t *testing.T) {
	const text = `{"a": [1, {"b": "x"}, [] , [true]], "c" : {"d": null}, "e":2}`
	for what, want := range map[string]string{
		`{"a"`: "", `"a"`: "a", `[1,`: "a", `1,`: "a[0]", `{"b"`: "a[1]", `"b"`: "a[1].b", `"x"`: "a[1].b",
		`[] `: "a[2]", `true`: "a[3][0]", `"c"`: "c", `"d"`: "c.d", `null`: "c.d", `"e"`: "e", `2}`: "e",
	} {
		if got := pathAt([]byte(text), bytes.Index([]byte(text), []byte(what))); got != want {
			t.Errorf("at %s is %q, want %q", what, got, want)
		}
	}
}

// Whatever the text is, an error stays one, and none comes from nowhere.
func FuzzNamedJSON(f *testing.F) {
	f.Add([]byte(`{"url":"x","retrySchedule":["1x"]}`))
	f.Add([]byte("{\"ü\":\n\n [{}, \"a\"]}"))
	f.Add([]byte(`[[{"a":1}]]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var subscription fanfarev1.Subscription
		err := protojson.Unmarshal(text, &subscription)
		named := nameField(err, text)
		if (err == nil) != (named == nil) {
			t.Fatalf("%v became %v", err, named)
		}
		if json.Valid(text) {
			_ = pathAt(text, offsetOf(text, len(text)%3, len(text)))
		}
	})
}
