{{/* The name of every object: the release's name, with the chart's where that is not in it. */}}
{{- define "varserve.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of one release. */}}
{{- define "varserve.selectorLabels" -}}
app.kubernetes.io/name: varserve
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "varserve.labels" -}}
{{ include "varserve.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The head of every object. */}}
{{- define "varserve.metadata" -}}
name: {{ include "varserve.name" . }}
labels:
  {{- include "varserve.labels" . | nindent 2 }}
{{- end -}}

{{/* Settings that the values decide, before the operator's own. */}}
{{- define "varserve.settings" -}}
{{- $settings := dict -}}
{{- if .Values.tls.enabled -}}
{{- $settings = merge $settings (dict "tls_cert" "/tls/tls.crt" "tls_key" "/tls/tls.key" "tls_client_ca" "/tls/ca.crt" "health_port" 8503) -}}
{{- end -}}
{{- if .Values.metrics.enabled -}}{{- $_ := set $settings "metrics_port" 9464 -}}{{- end -}}
{{- if .Values.persistence.enabled -}}{{- $_ := set $settings "state_dir" "/state" -}}{{- end -}}
{{- if .Values.policy.rules -}}{{- $_ := set $settings "policy" "/policy/policy.yaml" -}}{{- end -}}
{{- if and .Values.tls.enabled .Values.metrics.enabled -}}{{- $_ := set $settings "metrics_client_ca" "/metrics-ca/ca.crt" -}}{{- end -}}
{{- if .Values.audit.enabled -}}{{- $_ := set $settings "audit_log" "/audit/audit.jsonl" -}}{{- end -}}
{{- toYaml (mergeOverwrite $settings .Values.settings) -}}
{{- end -}}

{{- define "varserve.claim" -}}
accessModes:
  # No second pod, on whatever node, while one has it.
  - ReadWriteOncePod
{{- with .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .size }}
{{- end -}}

{{/* A setting as the environment says it: whole numbers without an exponent, lists and mappings as JSON. */}}
{{- define "varserve.setting" -}}
{{- if kindIs "string" . -}}
{{- . -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end -}}
