// Package sealed encrypts what must not lie about in the clear: the signing
// secrets in logs, snapshots and backups of them.
package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// KeySize is the length of a key in bytes: AES-256.
const KeySize = 32

// version begins everything sealed, so that another cipher can follow.
const version = 1

// ErrSealed says that the bytes were not sealed with this key, or were changed.
var ErrSealed = errors.New("sealed with another key, or damaged")

// Box seals and opens with one key: AES-256-GCM with a random nonce for each
// secret. Safe for concurrent use.
type Box struct {
	aead        cipher.AEAD
	fingerprint string
}

// New returns a box for a key of KeySize bytes.
func New(key []byte) (*Box, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("making a box: the key has %d bytes, not %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("making a box: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("making a box: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("fanfare: fingerprint of the key of secrets"))
	return &Box{aead, hex.EncodeToString(mac.Sum(nil))}, nil
}

// Fingerprint tells keys apart, and does not tell the key.
func (b *Box) Fingerprint() string { return b.fingerprint }

// Load returns the box of the key in a file, as Open does. If there is no file
// it makes one with a new key, readable by its owner only.
func Load(path string) (*Box, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path, NewKey()); err != nil {
			return nil, fmt.Errorf("making the key of secrets: %w", err)
		}
	}
	return Open(path)
}

// Open returns the box of the key in a file: KeySize bytes in base64.
func Open(path string) (*Box, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("loading the key of secrets: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("loading the key of secrets from %s: %w", path, err)
	}
	box, err := New(key)
	if err != nil {
		return nil, fmt.Errorf("loading the key of secrets from %s: %w", path, err)
	}
	return box, nil
}

// NewKey returns the text of a file with a new key.
func NewKey() []byte {
	key := make([]byte, KeySize)
	rand.Read(key)
	return []byte(base64.StdEncoding.EncodeToString(key) + "\n")
}

// create writes the text of a new key, whole or not at all.
func create(path string, text []byte) error {
	file, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) //nolint:gosec // the operator names the file
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Seal encrypts a secret.
func (b *Box) Seal(secret string) []byte {
	// No nonce is given: the cipher makes a random one for each.
	return b.aead.Seal([]byte{version}, nil, []byte(secret), []byte{version}) //nolint:gosec // it is the prefix that is constant
}

// Open is the inverse of Seal. ErrSealed if it is not.
func (b *Box) Open(sealed []byte) (string, error) {
	if len(sealed) == 0 || sealed[0] != version {
		return "", ErrSealed
	}
	secret, err := b.aead.Open(nil, nil, sealed[1:], []byte{version})
	if err != nil {
		return "", ErrSealed
	}
	return string(secret), nil
}
