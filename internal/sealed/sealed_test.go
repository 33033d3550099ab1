package sealed

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	box, err := New(bytes.Repeat([]byte{7}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	first, second := box.Seal("whsec_abc"), box.Seal("whsec_abc")
	if bytes.Equal(first, second) {
		t.Error("the same secret sealed twice gives the same bytes")
	}
	if bytes.Contains(first, []byte("whsec")) {
		t.Error("the secret shows through")
	}
	if got, err := box.Open(first); err != nil || got != "whsec_abc" {
		t.Errorf("Open = %q, %v", got, err)
	}
}

func TestOpenRefusesEveryChange(t *testing.T) {
	box, err := New(bytes.Repeat([]byte{7}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	sealed := box.Seal("whsec_abc")
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if got, err := box.Open(changed); !errors.Is(err, ErrSealed) {
			t.Errorf("byte %d changed: Open = %q, %v", i, got, err)
		}
		if _, err := box.Open(sealed[:i]); !errors.Is(err, ErrSealed) {
			t.Errorf("cut to %d bytes: Open gives %v", i, err)
		}
	}
}

func TestLoadKeepsItsKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets.key")
	first, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := second.Open(first.Seal("s")); err != nil || got != "s" {
		t.Errorf("Open with the key loaded again = %q, %v", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v; want mode 0600", info.Mode(), err)
	}
}

func TestLoadRefusesWhatIsNoKey(t *testing.T) {
	for name, content := range map[string]string{"not base64": "?", "too short": "AAAA", "empty": ""} {
		path := filepath.Join(t.TempDir(), "secrets.key")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil {
			t.Errorf("%s: Load succeeds", name)
		}
	}
}

// The fingerprint is the key's, and Open makes no key.
func TestFingerprint(t *testing.T) {
	dir := t.TempDir()
	a, err := Load(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Open(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Load(filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	if a.Fingerprint() != again.Fingerprint() || a.Fingerprint() == b.Fingerprint() || a.Fingerprint() == "" {
		t.Errorf("fingerprints %q, %q, %q", a.Fingerprint(), again.Fingerprint(), b.Fingerprint())
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening a key that is not there: %v", err)
	}
}
