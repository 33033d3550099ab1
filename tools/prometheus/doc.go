// Package prometheus checks what Fanfare ships for Prometheus and tells
// Alertmanager, with promtool and their own code. It is a module of its own, so
// that what they need influences nothing else.
package prometheus
