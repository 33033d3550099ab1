// Package telemetry sets up OpenTelemetry for a process: metrics, traces and
// logs, and where they go.
//
// Metrics are always there for whoever scrapes them. Anything else is sent only
// if the environment says where to, by the variables that OpenTelemetry has for
// all programs
// (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/);
// docs/observability.md lists those that count.
//
// What is observed never waits for who observes: spans and logs wait to be sent
// in queues that have a limit, and what comes when one is full is lost, and
// counted. A back end that hangs costs those queues, and at the end of the
// process ShutdownTimeout.
package telemetry
