// Package openapi holds the OpenAPI document of the REST API, which is
// generated from the .proto files.
package openapi

import _ "embed"

//go:embed fanfare.swagger.json
var document []byte

// Document returns the document, as JSON. It must not be changed.
func Document() []byte { return document }
