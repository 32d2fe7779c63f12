{{- define "roomcast.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{- define "roomcast.labels" -}}
{{ include "roomcast.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "roomcast.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{- define "roomcast.redis.selector" -}}
app.kubernetes.io/name: redis
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: redis
{{- end }}

{{- /* What the policy “restricted” of pod security demands of a container, and a read-only root. */ -}}
{{- define "roomcast.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
    - ALL
{{- end }}

{{- /*
The host names of the ingress and of the route, and the service's own within the cluster, for HOSTS;
empty where one of them takes any name.
*/ -}}
{{- define "roomcast.hosts" -}}
{{- $hosts := list }}
{{- if .Values.ingress.enabled }}{{ $hosts = append $hosts .Values.ingress.host }}{{ end }}
{{- if .Values.gateway.enabled }}{{ $hosts = concat $hosts (.Values.gateway.hostnames | default (list "")) }}{{ end }}
{{- if and $hosts (not (has "" $hosts)) }}
{{- $service := include "roomcast.name" . }}
{{- $inside := printf "%s.%s" $service .Release.Namespace }}
{{- $own := list $service $inside (printf "%s.svc" $inside) (printf "%s.svc.cluster.local" $inside) }}
{{- join "," (uniq (concat $own $hosts)) }}
{{- end }}
{{- end }}
