{{- define "fanfare.name" -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{- end }}

{{- define "fanfare.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Labels of a part: (dict "root" . "part" "worker"). */}}
{{- define "fanfare.selector" -}}
app.kubernetes.io/name: fanfare
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "fanfare.labels" -}}
{{ include "fanfare.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "fanfare.etcdEndpoints" -}}
{{- if .Values.etcd.enabled -}}
{{- $name := printf "%s-etcd" (include "fanfare.name" .) -}}
{{- $urls := list -}}
{{- range $i := until (int .Values.etcd.replicas) -}}
{{- $urls = append $urls (printf "https://%s-%d.%s.%s.svc:2379" $name $i $name $.Release.Namespace) -}}
{{- end -}}
{{- join "," $urls -}}
{{- else -}}
{{- required "etcd.endpoints is needed when etcd.enabled is false" (join "," .Values.etcd.endpoints) -}}
{{- end -}}
{{- end }}

{{- define "fanfare.natsURLs" -}}
{{- if .Values.nats.enabled -}}
{{- $name := printf "%s-nats" (include "fanfare.name" .) -}}
{{- $urls := list -}}
{{- range $i := until (int .Values.nats.replicas) -}}
{{- $urls = append $urls (printf "tls://%s-%d.%s.%s.svc:4222" $name $i $name $.Release.Namespace) -}}
{{- end -}}
{{- join "," $urls -}}
{{- else -}}
{{- required "nats.urls is needed when nats.enabled is false" (join "," .Values.nats.urls) -}}
{{- end -}}
{{- end }}

{{/* Where coordinators ask the NATS servers how they sync. */}}
{{- define "fanfare.natsMonitors" -}}
{{- if .Values.nats.enabled -}}
{{- $name := printf "%s-nats" (include "fanfare.name" .) -}}
{{- $urls := list -}}
{{- range $i := until (int .Values.nats.replicas) -}}
{{- $urls = append $urls (printf "http://%s-%d.%s.%s.svc:8222" $name $i $name $.Release.Namespace) -}}
{{- end -}}
{{- join "," $urls -}}
{{- else -}}
{{- join "," .Values.nats.monitorURLs -}}
{{- end -}}
{{- end }}

{{/* Variables that coordinators and workers share. */}}
{{- define "fanfare.env" -}}
- name: FANFARE_LOG_FORMAT
  value: json
- name: FANFARE_ID
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: FANFARE_ETCD_ENDPOINTS
  value: {{ include "fanfare.etcdEndpoints" . | quote }}
- name: FANFARE_ETCD_TLS_CA
  value: /etc/fanfare/engines/ca.crt
- name: FANFARE_ETCD_TLS_CERT
  value: /etc/fanfare/engines/tls.crt
- name: FANFARE_ETCD_TLS_KEY
  value: /etc/fanfare/engines/tls.key
- name: FANFARE_TLS_CA
  value: /etc/fanfare/tls/ca.crt
- name: FANFARE_TLS_CERT
  value: /etc/fanfare/tls/tls.crt
- name: FANFARE_TLS_KEY
  value: /etc/fanfare/tls/tls.key
- name: FANFARE_TOKENS_FILE
  value: /etc/fanfare/tokens/tokens.yaml
{{- if .Values.egress.allowHTTP }}
- name: FANFARE_EGRESS_ALLOW_HTTP
  value: "true"
{{- end }}
{{- with .Values.egress.allowNetworks }}
- name: FANFARE_EGRESS_ALLOW_NETWORKS
  value: {{ join "," . | quote }}
{{- end }}
{{- range $name, $value := .Values.telemetry }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* Who is told of alerts. A key that the Secret lacks is a setting that is not given. */}}
{{- define "fanfare.alerts" -}}
- name: FANFARE_ALERT_LOG
  value: {{ .Values.alerts.log | quote }}
{{- with .Values.alerts.linkURL }}
- name: FANFARE_ALERT_LINK_URL
  value: {{ . | quote }}
{{- end }}
{{- if .Values.alerts.alertmanagerURLs }}
- name: FANFARE_ALERT_ALERTMANAGER_URLS
  value: {{ join "," .Values.alerts.alertmanagerURLs | quote }}
{{- else if .Values.secrets.alerts }}
- name: FANFARE_ALERT_ALERTMANAGER_URLS
  valueFrom: {secretKeyRef: {name: {{ .Values.secrets.alerts }}, key: alertmanager-urls, optional: true}}
{{- end }}
{{- with .Values.secrets.alerts }}
- name: FANFARE_ALERT_SLACK_URL
  valueFrom: {secretKeyRef: {name: {{ . }}, key: slack-url, optional: true}}
{{- end }}
{{- end }}

{{/* OpenTelemetry's variables that nobody should see. */}}
{{- define "fanfare.envFrom" -}}
{{- with .Values.secrets.telemetry }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{/* More settings, by their names. */}}
{{- define "fanfare.settings" -}}
{{- range $name, $value := . }}
- name: FANFARE_{{ $name | upper | replace "-" "_" }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "fanfare.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "fanfare.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Pods of a part on different machines where possible. */}}
{{- define "fanfare.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: {{ .unsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "fanfare.selector" . | nindent 8 }}
{{- end }}
