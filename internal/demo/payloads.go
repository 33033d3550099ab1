// Package demo carries real webhook payloads to try the cluster with. They are
// what GitHub sends; testdata/github/README.md says where they come from.
package demo

import (
	"embed"
	"fmt"
	"strings"
)

// payloadDir is where the payloads lie inside payloadFiles.
const payloadDir = "testdata/github"

//go:embed testdata/github/*.json
var payloadFiles embed.FS

// Payload is one real event, ready to be published.
type Payload struct {
	Type string // dotted event type: "github.issues.opened", "github.push"
	Data []byte // a JSON object on one line, with its newline
}

// Payloads returns every payload, one for each type, ordered by type. The
// order is the same on each call and in each build. The caller owns the Data.
func Payloads() ([]Payload, error) {
	entries, err := payloadFiles.ReadDir(payloadDir) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("listing payloads: %w", err)
	}
	payloads := make([]Payload, 0, len(entries))
	for _, entry := range entries {
		data, err := payloadFiles.ReadFile(payloadDir + "/" + entry.Name())
		if err != nil {
			return nil, fmt.Errorf("reading payload: %w", err)
		}
		payloads = append(payloads, Payload{
			Type: "github." + strings.TrimSuffix(entry.Name(), ".json"),
			Data: data,
		})
	}
	return payloads, nil
}
