{{- define "inference-rollouts.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "inference-rollouts.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "inference-rollouts.name" .) -}}
{{- end -}}

{{- define "inference-rollouts.namespace" -}}
{{- .Values.watch.namespace | default .Release.Namespace -}}
{{- end -}}

{{- /* One lease per watched namespace: releases in one namespace that watch different ones do not wait for each other. */}}
{{- define "inference-rollouts.lease" -}}
{{- if or .Values.watch.allNamespaces (eq (include "inference-rollouts.namespace" .) .Release.Namespace) -}}
inference-rollouts
{{- else -}}
inference-rollouts-{{ include "inference-rollouts.namespace" . }}
{{- end -}}
{{- end -}}

{{- define "inference-rollouts.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "inference-rollouts.selector" -}}
app.kubernetes.io/name: inference-rollouts
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "inference-rollouts.labels" -}}
{{ include "inference-rollouts.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "inference-rollouts.checkModelServers" -}}
{{- $ca := (.secret | default dict).caKey -}}
{{- if and (ne (.scheme | default "http") "https") (or .serverName .insecureSkipVerify $ca) -}}
{{- fail "what modelServers say of TLS (serverName, insecureSkipVerify, secret.caKey) needs scheme: https, too" -}}
{{- end -}}
{{- if and .insecureSkipVerify $ca -}}
{{- fail "modelServers: secret.caKey says whom to trust and insecureSkipVerify everybody" -}}
{{- end -}}
{{- end -}}

{{- /* How a picker calls the pods of its pool: what differs from plain HTTP without a key. */}}
{{- define "inference-rollouts.modelServerArguments" -}}
{{- $folder := "/etc/inference-rollouts/model-servers" -}}
{{- include "inference-rollouts.checkModelServers" . -}}
{{- if eq .scheme "https" }}
- --model-server-scheme=https
{{- end }}
{{- with .serverName }}
- --model-server-name={{ . }}
{{- end }}
{{- if .insecureSkipVerify }}
- --model-server-insecure-skip-verify
{{- end }}
{{- if and .secret.name .secret.caKey }}
- --model-server-ca={{ $folder }}/{{ .secret.caKey }}
{{- end }}
{{- if and .secret.name .secret.apiKeyKey }}
- --model-server-api-key-file={{ $folder }}/{{ .secret.apiKeyKey }}
{{- end }}
{{- end -}}

{{- define "inference-rollouts.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "inference-rollouts.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/*
What the controller may do in the namespaces that it watches. Every verb is one that it uses; a server-side
apply of a new object needs create beside patch. There is no verb on Secrets, and none that escalates.
*/}}
{{- define "inference-rollouts.rules" -}}
- apiGroups: [inferencerollouts.dev]
  resources: [rollouts]
  verbs: [get, list, watch, patch]
- apiGroups: [inferencerollouts.dev]
  resources: [rollouts/status]
  verbs: [patch]
- apiGroups: [inferencerollouts.dev]
  resources: [analysisruns]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [inferencerollouts.dev]
  resources: [analysisruns/status]
  verbs: [patch]
- apiGroups: [inferencerollouts.dev]
  resources: [analysistemplates]
  verbs: [list, watch]
{{ include "inference-rollouts.trafficRules" . }}
{{- if .Values.pathProbe.enabled }}
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways]
  verbs: [get]
{{- end }}
- apiGroups: [inference.networking.k8s.io, inference.networking.x-k8s.io]
  resources: [inferencepools]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods, services]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch{{ if .Values.jobs.enabled }}, create, delete{{ end }}]
{{- end -}}

{{/* The controller's configuration file. Credentials are paths of files that the pod mounts. */}}
{{- define "inference-rollouts.config" -}}
gitopsManagers: {{ toJson .Values.gitopsManagers }}
notifications: {{ toJson .Values.notifications.config }}
pathProbe:
  enabled: {{ .Values.pathProbe.enabled }}
  allow: {{ toJson .Values.pathProbe.allow }}
adapters:
  prefixes: {{ toJson .Values.adapters.prefixes }}
  {{- with .Values.adapters.apiKeys }}
  apiKeys:
  {{- range $index, $entry := . }}
  - {namespace: {{ $entry.namespace | quote }}, pool: {{ $entry.pool | default "" | quote }}, file: /etc/inference-rollouts/adapter-keys/{{ $index }}/{{ $entry.secret.key }}}
  {{- end }}
  {{- end }}
  {{- if .Values.adapters.apiKeySecret.name }}
  {{- if .Values.watch.allNamespaces }}
  {{- fail "adapters.apiKeySecret would go to the pods of every namespace: with watch.allNamespaces list modelServers, each with its namespace" }}
  {{- end }}
  apiKeyFile: /etc/inference-rollouts/adapters/{{ .Values.adapters.apiKeySecret.key }}
  {{- end }}
{{- with .Values.modelServers }}
modelServers:
{{- range $index, $entry := . }}
{{- $folder := printf "/etc/inference-rollouts/model-servers/%d" $index }}
{{- $secret := $entry.secret | default dict }}
{{- include "inference-rollouts.checkModelServers" $entry }}
- namespace: {{ $entry.namespace | quote }}
  {{- with $entry.pool }}
  pool: {{ . | quote }}
  {{- end }}
  {{- with $entry.scheme }}
  scheme: {{ . }}
  {{- end }}
  {{- with $entry.serverName }}
  serverName: {{ . | quote }}
  {{- end }}
  {{- with $entry.insecureSkipVerify }}
  insecureSkipVerify: {{ . }}
  {{- end }}
  {{- if and $secret.name $secret.caKey }}
  caFile: {{ $folder }}/{{ $secret.caKey }}
  {{- end }}
  {{- if and $secret.name $secret.apiKeyKey }}
  apiKeyFile: {{ $folder }}/{{ $secret.apiKeyKey }}
  {{- end }}
{{- end }}
{{- end }}
sources:
{{- range $name, $source := .Values.sources }}
  {{ $name }}:
    url: {{ $source.url | quote }}
    {{- with $source.timeout }}
    timeout: {{ . | quote }}
    {{- end }}
    {{- with $source.podLabel }}
    podLabel: {{ . | quote }}
    {{- end }}
    {{- with $source.enforcedLabel }}
    enforcedLabel: {{ . | quote }}
    {{- end }}
    {{- with $source.namespaceLabel }}
    namespaceLabel: {{ . | quote }}
    {{- end }}
    {{- with $source.secret }}
    {{- $folder := printf "/etc/inference-rollouts/sources/%s" $name }}
    {{- if .caKey }}
    caFile: {{ $folder }}/{{ .caKey }}
    {{- end }}
    {{- if .certKey }}
    certFile: {{ $folder }}/{{ .certKey }}
    {{- end }}
    {{- if .keyKey }}
    keyFile: {{ $folder }}/{{ .keyKey }}
    {{- end }}
    {{- if .bearerTokenKey }}
    bearerTokenFile: {{ $folder }}/{{ .bearerTokenKey }}
    {{- end }}
    {{- if .usernameKey }}
    usernameFile: {{ $folder }}/{{ .usernameKey }}
    {{- end }}
    {{- if .passwordKey }}
    passwordFile: {{ $folder }}/{{ .passwordKey }}
    {{- end }}
    {{- end }}
{{- else }} {}
{{- end }}
{{- end -}}
