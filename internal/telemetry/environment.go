package telemetry

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// signal is a kind of telemetry, as variables have its name.
type signal string

const (
	traces  signal = "TRACES"
	metrics signal = "METRICS"
	logs    signal = "LOGS"
)

// isSent reports whether the environment says where to send a signal: by an
// exporter, or by an endpoint. Nothing is by itself, unlike elsewhere: who runs
// Fanfare without a collector should not hear of it.
func isSent(s signal) bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	switch exporter := os.Getenv("OTEL_" + string(s) + "_EXPORTER"); exporter {
	case "none":
		return false
	case "prometheus": // /metrics is there anyway
		return false
	case "":
		return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+string(s)+"_ENDPOINT") != ""
	default:
		return true
	}
}

const (
	samplerVariable = "OTEL_TRACES_SAMPLER"
	ratioVariable   = "OTEL_TRACES_SAMPLER_ARG"
)

// chooseSampler returns the sampler that the environment names. The SDK does
// the same, but does not let it be asked.
func chooseSampler() (sdktrace.Sampler, error) {
	name := strings.ToLower(os.Getenv(samplerVariable))
	root, followsParent := strings.CutPrefix(name, "parentbased_")
	var chosen sdktrace.Sampler
	switch root {
	case "":
		if !followsParent {
			return sdktrace.ParentBased(sdktrace.AlwaysSample()), nil
		}
	case "always_on":
		chosen = sdktrace.AlwaysSample()
	case "always_off":
		chosen = sdktrace.NeverSample()
	case "traceidratio":
		ratio, err := ratio()
		if err != nil {
			return nil, err
		}
		chosen = sdktrace.TraceIDRatioBased(ratio)
	}
	if chosen == nil {
		return nil, fmt.Errorf("%s is %q; always_on, always_off and traceidratio are allowed, and each of them behind parentbased_",
			samplerVariable, os.Getenv(samplerVariable))
	}
	if followsParent {
		chosen = sdktrace.ParentBased(chosen)
	}
	return chosen, nil
}

func ratio() (float64, error) {
	text := os.Getenv(ratioVariable)
	if text == "" {
		return 1, nil
	}
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || !(value >= 0 && value <= 1) { // NaN is neither
		return 0, fmt.Errorf("%s is %q; 0 to 1 is allowed", ratioVariable, text)
	}
	return value, nil
}

// number returns a whole number of the environment, of 1 or more, or what it is
// without.
func number(variable string, without int) (int, error) {
	text := os.Getenv(variable)
	if text == "" {
		return without, nil
	}
	value, err := strconv.Atoi(text)
	if err != nil || value < 1 {
		return 0, fmt.Errorf("%s is %q; a whole number of 1 or more is allowed", variable, text)
	}
	return value, nil
}
