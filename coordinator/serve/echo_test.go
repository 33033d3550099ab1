package serve

import (
	"strings"
	"testing"
)

// Whatever an endpoint answers, only what has the challenge in it is taken for
// it, and what is the challenge always is.
func FuzzEchoes(f *testing.F) {
	for _, body := range []string{"", "C", " C\n", `{"challenge":"C"}`, `{"challenge":1}`, `"C"`, `{"challenge":""}`, "[", `{"Challenge":"C","challenge":"D"}`} {
		f.Add([]byte(body), "C")
	}
	f.Add([]byte(`{"challenge":"\u0043"}`), "C")
	f.Fuzz(func(t *testing.T, body []byte, challenge string) {
		if challenge = strings.ToUpper(strings.Trim(challenge, " \"{}[]\\\x00\n\r\t")); len(challenge) != len("C") || challenge < "A" || challenge > "Z" {
			return
		}
		if echoes(body, challenge) && !strings.Contains(string(body), challenge) && !strings.Contains(string(body), `\u`) {
			t.Errorf("%q is taken for %q", body, challenge)
		}
		for _, answer := range []string{challenge, " " + challenge + "\n", `{"challenge":"` + challenge + `"}`} {
			if !echoes([]byte(answer), challenge) {
				t.Errorf("%q is not taken for %q", answer, challenge)
			}
		}
	})
}
