// Package deploy checks what is in ../../deploy with the libraries of those
// who run it: Helm renders the chart, and Kubernetes' own types, read strictly,
// find what they do not know. It is a module of its own, so that Fanfare does
// not depend on them.
package deploy
