package deploy

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

const (
	slackVariable        = "FANFARE_ALERT_SLACK_URL"
	alertmanagerVariable = "FANFARE_ALERT_ALERTMANAGER_URLS"
)

// TestChartTells: the values that say who is told of alerts, and where telemetry
// goes, reach the processes they are for, and what is a secret comes from one.
func TestChartTells(t *testing.T) {
	all := render(t, `
secrets: {alerts: fanfare-alerts, telemetry: fanfare-otlp}
alerts: {log: false, linkURL: "https://fanfare.example.com/v1", alertmanagerURLs: ["http://am-0:9093", "http://am-1:9093"]}
telemetry: {OTEL_EXPORTER_OTLP_ENDPOINT: "http://collector:4318", OTEL_TRACES_SAMPLER_ARG: 0.01}
`)
	coordinator, worker := containerOf(t, all, "coordinator"), containerOf(t, all, "worker")
	for _, container := range []corev1.Container{coordinator, worker} {
		checkValue(t, container, "OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
		checkValue(t, container, "OTEL_TRACES_SAMPLER_ARG", "0.01")
		if !slices.ContainsFunc(container.EnvFrom, func(from corev1.EnvFromSource) bool {
			return from.SecretRef != nil && from.SecretRef.Name == "fanfare-otlp"
		}) {
			t.Errorf("%s has no variables of the Secret of telemetry: %v", container.Name, container.EnvFrom)
		}
	}
	checkValue(t, coordinator, "FANFARE_ALERT_LOG", "false")
	checkValue(t, coordinator, "FANFARE_ALERT_LINK_URL", "https://fanfare.example.com/v1")
	checkValue(t, coordinator, alertmanagerVariable, "http://am-0:9093,http://am-1:9093")
	checkSecret(t, coordinator, slackVariable, "fanfare-alerts", "slack-url")
	for _, variable := range worker.Env {
		if strings.HasPrefix(variable.Name, "FANFARE_ALERT_") {
			t.Errorf("a worker tells nobody of alerts, and has %s", variable.Name)
		}
	}
}

// TestChartTellsSecretAlertmanagers: addresses with passwords in them come from
// the Secret, of which no key must be there.
func TestChartTellsSecretAlertmanagers(t *testing.T) {
	coordinator := containerOf(t, render(t, `secrets: {alerts: fanfare-alerts}`), "coordinator")
	checkSecret(t, coordinator, alertmanagerVariable, "fanfare-alerts", "alertmanager-urls")
	checkSecret(t, coordinator, slackVariable, "fanfare-alerts", "slack-url")
}

// TestChartTellsNobody: without values alerts are logged, and nothing refers to
// a Secret that nobody named.
func TestChartTellsNobody(t *testing.T) {
	all := render(t, "")
	coordinator := containerOf(t, all, "coordinator")
	checkValue(t, coordinator, "FANFARE_ALERT_LOG", "true")
	for _, container := range []corev1.Container{coordinator, containerOf(t, all, "worker")} {
		if len(container.EnvFrom) > 0 {
			t.Errorf("%s has variables of %v", container.Name, container.EnvFrom)
		}
		for _, variable := range container.Env {
			if strings.HasPrefix(variable.Name, "OTEL_") || variable.Name == slackVariable || variable.Name == alertmanagerVariable {
				t.Errorf("%s has %s", container.Name, variable.Name)
			}
		}
	}
}

// containerOf returns the container of a part.
func containerOf(t *testing.T, all map[string]any, part string) corev1.Container {
	t.Helper()
	var pods corev1.PodTemplateSpec
	switch object := all[map[string]string{
		"coordinator": "StatefulSet fanfare-coordinator", "worker": "Deployment fanfare-worker",
	}[part]].(type) {
	case *appsv1.StatefulSet:
		pods = object.Spec.Template
	case *appsv1.Deployment:
		pods = object.Spec.Template
	default:
		t.Fatalf("there is no %s", part)
	}
	if len(pods.Spec.Containers) != 1 {
		t.Fatalf("a %s has %d containers", part, len(pods.Spec.Containers))
	}
	return pods.Spec.Containers[0]
}

func variableOf(t *testing.T, container corev1.Container, name string) corev1.EnvVar {
	t.Helper()
	at := slices.IndexFunc(container.Env, func(variable corev1.EnvVar) bool { return variable.Name == name })
	if at < 0 {
		t.Errorf("%s lacks %s", container.Name, name)
		return corev1.EnvVar{}
	}
	return container.Env[at]
}

func checkValue(t *testing.T, container corev1.Container, name, want string) {
	t.Helper()
	if got := variableOf(t, container, name); got.Value != want {
		t.Errorf("%s has %s=%q, want %q", container.Name, name, got.Value, want)
	}
}

// checkSecret looks that a variable is what an optional key of a Secret holds.
func checkSecret(t *testing.T, container corev1.Container, name, secret, key string) {
	t.Helper()
	variable := variableOf(t, container, name)
	if variable.ValueFrom == nil || variable.ValueFrom.SecretKeyRef == nil || variable.Value != "" {
		t.Errorf("%s: %s does not come from a Secret: %v", container.Name, name, variable)
		return
	}
	if from := variable.ValueFrom.SecretKeyRef; from.Name != secret || from.Key != key || from.Optional == nil || !*from.Optional {
		t.Errorf("%s: %s comes from %v", container.Name, name, from)
	}
}
