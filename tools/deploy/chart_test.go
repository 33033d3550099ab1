package deploy

import (
	"bufio"
	"bytes"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

const chartDir = "../../deploy/helm/fanfare"

// settings are values that people install with.
var settings = map[string]string{
	"defaults": "",
	"engines of one's own": `
etcd: {enabled: false, endpoints: ["https://etcd.example.com:2379"]}
nats: {enabled: false, urls: ["tls://nats.example.com:4222"], monitorURLs: ["http://nats.example.com:8222"]}
`,
	"one of each": `
etcd: {replicas: 1}
nats: {replicas: 1}
coordinator: {replicas: 1}
worker: {replicas: 1}
`,
	"seen": `
secrets: {alerts: fanfare-alerts, telemetry: fanfare-otlp}
alerts: {log: false, linkURL: "https://fanfare.example.com/v1", alertmanagerURLs: ["http://alertmanager:9093"]}
telemetry: {OTEL_EXPORTER_OTLP_ENDPOINT: "http://collector:4318"}
`,
	"placed": `
nodeSelector: {disk: fast}
tolerations: [{key: dedicated, operator: Exists}]
podAnnotations: {prometheus.io/scrape: "true"}
etcd: {storageClass: fast}
nats: {storageClass: fast}
`,
}

// TestChart renders the chart, reads what comes out as Kubernetes does, and
// looks that what refers to something refers to something that is there.
func TestChart(t *testing.T) {
	for name, values := range settings {
		t.Run(name, func(t *testing.T) {
			all := render(t, values)
			if len(all) == 0 {
				t.Fatal("nothing was rendered")
			}
			checkReferences(t, all)
		})
	}
}

// TestChartRefuses: what is needed and not given is said.
func TestChartRefuses(t *testing.T) {
	for values, want := range map[string]string{
		"etcd: {enabled: false}": "etcd.endpoints is needed",
		"nats: {enabled: false}": "nats.urls is needed",
	} {
		if _, err := tryRender(t, values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with %s: %v, want %q", values, err, want)
		}
	}
}

// TestValuesAreUsed: a value that no template reads is one that somebody sets in
// vain.
func TestValuesAreUsed(t *testing.T) {
	c := load(t)
	var templates strings.Builder
	for _, file := range c.Templates {
		templates.Write(file.Data)
	}
	var check func(prefix string, values map[string]any)
	check = func(prefix string, values map[string]any) {
		for key, value := range values {
			at := prefix + "." + key
			inner, ok := value.(map[string]any)
			whole := strings.Contains(templates.String(), "Values"+at+" ") || strings.Contains(templates.String(), "Values"+at+")") ||
				strings.Contains(templates.String(), "Values"+at+"}")
			switch {
			case whole:
			case ok && len(inner) > 0:
				check(at, inner)
			default:
				t.Errorf("values.yaml has %s, and no template reads it", strings.TrimPrefix(at, "."))
			}
		}
	}
	check("", c.Values)
}

func load(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

func tryRender(t *testing.T, values string) (map[string]string, error) {
	t.Helper()
	given, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		t.Fatal(err)
	}
	c := load(t)
	all, err := chartutil.ToRenderValues(c, given, chartutil.ReleaseOptions{
		Name: "fanfare", Namespace: "hooks", IsInstall: true,
	}, chartutil.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	e := engine.Engine{Strict: true, LintMode: false}
	return e.Render(c, all)
}

// render returns the objects by kind and name.
func render(t *testing.T, values string) map[string]any {
	t.Helper()
	files, err := tryRender(t, values)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]any)
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if path.Ext(file) != ".yaml" {
			continue
		}
		documents := utilyaml.NewYAMLReader(newReader(files[file]))
		for {
			document, err := documents.Read()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if len(bytes.TrimSpace(document)) == 0 {
				continue
			}
			object, name := decode(t, file, document)
			if _, twice := all[name]; twice {
				t.Errorf("%s: there are two of %s", file, name)
			}
			all[name] = object
		}
	}
	return all
}

// decode reads an object strictly.
func decode(t *testing.T, file string, document []byte) (object any, name string) {
	t.Helper()
	var meta struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
	}
	if err := yaml.Unmarshal(document, &meta); err != nil {
		t.Fatalf("%s: %v\n%s", file, err, document)
	}
	known := map[string]any{
		"v1/Service":                             new(corev1.Service),
		"v1/ConfigMap":                           new(corev1.ConfigMap),
		"apps/v1/StatefulSet":                    new(appsv1.StatefulSet),
		"apps/v1/Deployment":                     new(appsv1.Deployment),
		"policy/v1/PodDisruptionBudget":          new(policyv1.PodDisruptionBudget),
		"autoscaling/v2/HorizontalPodAutoscaler": new(autoscalingv2.HorizontalPodAutoscaler),
	}
	object = known[meta.APIVersion+"/"+meta.Kind]
	if object == nil {
		t.Fatalf("%s: %s %s is nothing this test knows", file, meta.APIVersion, meta.Kind)
	}
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		t.Errorf("%s: %s %s: %v", file, meta.Kind, meta.Name, err)
	}
	if meta.Namespace != "" && meta.Namespace != "hooks" {
		t.Errorf("%s: %s is in namespace %s", file, meta.Name, meta.Namespace)
	}
	return object, meta.Kind + " " + meta.Name
}

// checkReferences looks at what names something else.
func checkReferences(t *testing.T, all map[string]any) {
	t.Helper()
	for name, object := range all {
		switch o := object.(type) {
		case *appsv1.StatefulSet:
			if _, ok := all["Service "+o.Spec.ServiceName]; !ok {
				t.Errorf("%s has the service %q, which is not there", name, o.Spec.ServiceName)
			}
			claims := make(map[string]bool)
			for _, claim := range o.Spec.VolumeClaimTemplates {
				claims[claim.Name] = true
			}
			checkPods(t, all, name, o.Spec.Selector, o.Spec.Template, claims)
		case *appsv1.Deployment:
			checkPods(t, all, name, o.Spec.Selector, o.Spec.Template, nil)
		case *corev1.Service:
			checkSelects(t, all, name, o.Spec.Selector)
		case *policyv1.PodDisruptionBudget:
			checkSelects(t, all, name, o.Spec.Selector.MatchLabels)
		case *autoscalingv2.HorizontalPodAutoscaler:
			target := o.Spec.ScaleTargetRef.Kind + " " + o.Spec.ScaleTargetRef.Name
			if _, ok := all[target]; !ok {
				t.Errorf("%s scales %s, which is not there", name, target)
			}
		}
	}
}

// checkPods looks at a pod template: it is selected by its owner, and mounts
// what there is.
func checkPods(t *testing.T, all map[string]any, name string, selector *metav1.LabelSelector, pods corev1.PodTemplateSpec, claims map[string]bool) {
	t.Helper()
	if !selects(selector.MatchLabels, pods.Labels) {
		t.Errorf("%s does not select its own pods", name)
	}
	volumes := maps.Clone(claims)
	if volumes == nil {
		volumes = make(map[string]bool)
	}
	for _, volume := range pods.Spec.Volumes {
		volumes[volume.Name] = true
		if volume.ConfigMap == nil {
			continue
		}
		if _, ok := all["ConfigMap "+volume.ConfigMap.Name]; !ok {
			t.Errorf("%s mounts the ConfigMap %q, which is not there", name, volume.ConfigMap.Name)
		}
	}
	for _, container := range append(pods.Spec.InitContainers, pods.Spec.Containers...) {
		ports := make(map[string]bool)
		for _, port := range container.Ports {
			ports[port.Name] = true
		}
		for _, mount := range container.VolumeMounts {
			if !volumes[mount.Name] {
				t.Errorf("%s: container %s mounts %q, which is no volume", name, container.Name, mount.Name)
			}
		}
		for _, probe := range []*corev1.Probe{container.StartupProbe, container.LivenessProbe, container.ReadinessProbe} {
			if probe != nil && probe.HTTPGet != nil && probe.HTTPGet.Port.StrVal != "" && !ports[probe.HTTPGet.Port.StrVal] {
				t.Errorf("%s: a probe asks port %q, which is none of the container's", name, probe.HTTPGet.Port.StrVal)
			}
		}
		seen := make(map[string]bool)
		for _, variable := range container.Env {
			if seen[variable.Name] {
				t.Errorf("%s: %s is set twice", name, variable.Name)
			}
			seen[variable.Name] = true
		}
		if s := container.SecurityContext; s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
			t.Errorf("%s: container %s may gain privileges", name, container.Name)
		}
	}
}

// checkSelects looks that labels select the pods of something.
func checkSelects(t *testing.T, all map[string]any, name string, labels map[string]string) {
	t.Helper()
	for _, object := range all {
		switch o := object.(type) {
		case *appsv1.StatefulSet:
			if selects(labels, o.Spec.Template.Labels) {
				return
			}
		case *appsv1.Deployment:
			if selects(labels, o.Spec.Template.Labels) {
				return
			}
		}
	}
	t.Errorf("%s selects nobody: %v", name, labels)
}

func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return len(selector) > 0
}

func newReader(text string) *bufio.Reader { return bufio.NewReader(strings.NewReader(text)) }
