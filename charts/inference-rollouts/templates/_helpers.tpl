{{- /* The value of app.kubernetes.io/name, by which selectors find pods. */}}
{{- define "inference-rollouts.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* 52 characters leave room for the suffixes of a Service's and a Job's name. */}}
{{- define "inference-rollouts.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "inference-rollouts.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "inference-rollouts.fullname" .) -}}
{{- end -}}

{{- /* The watched namespaces, by commas; empty: all. */}}
{{- define "inference-rollouts.namespaces" -}}
{{- with .Values.watch -}}
{{- if gt (len (without (list .allNamespaces (not (empty .namespace)) (not (empty .namespaces))) false)) 1 -}}
{{- fail "watch: namespace, namespaces and allNamespaces exclude each other" -}}
{{- end -}}
{{- if not .allNamespaces -}}
{{- join "," (.namespaces | default (list (.namespace | default $.Release.Namespace))) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Where a picker is: `picker` says so, or there is only one place that is watched. */}}
{{- define "inference-rollouts.pickerNamespace" -}}
{{- $watched := splitList "," (include "inference-rollouts.namespaces" .root) -}}
{{- if .root.Values.watch.allNamespaces -}}
{{- .picker.namespace | default .root.Release.Namespace -}}
{{- else if has (.picker.namespace | default (first $watched)) $watched | not -}}
{{- fail (printf "pickers: namespace %s of pool %s is not watched" .picker.namespace .picker.pool) -}}
{{- else if and (not .picker.namespace) (gt (len $watched) 1) -}}
{{- fail (printf "pickers: say in which namespace the picker of pool %s is, of watch.namespaces" .picker.pool) -}}
{{- else -}}
{{- .picker.namespace | default (first $watched) -}}
{{- end -}}
{{- end -}}

{{- /* The namespaces of the pickers, by commas. */}}
{{- define "inference-rollouts.pickerNamespaces" -}}
{{- $found := list -}}
{{- range .Values.pickers -}}
{{- $found = append $found (include "inference-rollouts.pickerNamespace" (dict "root" $ "picker" .)) -}}
{{- end -}}
{{- $found | uniq | sortAlpha | join "," -}}
{{- end -}}

{{- /*
One lease per watched namespace: releases in one namespace that watch different ones do not wait for each other. A list
has a lease of its release, which stays when the list changes; no namespace has a dot.
*/}}
{{- define "inference-rollouts.lease" -}}
{{- $watched := include "inference-rollouts.namespaces" . -}}
{{- if .Values.watch.namespaces -}}
{{ include "inference-rollouts.fullname" . }}.namespaces
{{- else if has $watched (list "" .Release.Namespace) -}}
inference-rollouts
{{- else -}}
inference-rollouts-{{ $watched }}
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
app.kubernetes.io/name: {{ include "inference-rollouts.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "inference-rollouts.labels" -}}
{{ include "inference-rollouts.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "inference-rollouts.controllerSelector" -}}
{{ include "inference-rollouts.selector" . }}
app.kubernetes.io/component: controller
{{- end -}}

{{- /* `own` (YAML) beside `more` (a map), of which no entry may replace one of ours: selectors rest on them. */}}
{{- define "inference-rollouts.beside" -}}
{{- toYaml (merge (fromYaml .own) (.more | default dict)) -}}
{{- end -}}

{{- /* Where pods are placed: `values` of the controller or of a picker, `selector` (YAML) of their own pods. */}}
{{- define "inference-rollouts.placement" -}}
{{- $selector := fromYaml .selector -}}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints:
{{- range . }}
-
  {{- if not (hasKey . "labelSelector") }}
  labelSelector: {matchLabels: {{ toJson $selector }}}
  {{- end }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
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

{{- define "inference-rollouts.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The container of a Pod that runs one command and ends. */}}
{{- define "inference-rollouts.container" -}}
image: {{ include "inference-rollouts.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
resources: {{- toYaml .Values.resources | nindent 2 }}
securityContext: {{- include "inference-rollouts.containerSecurity" . | nindent 2 }}
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
  resources: [analysistemplates, rolloutstrategies]
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
  verbs: [list, watch{{ if (.Values.jobs | default dict).enabled }}, create, delete{{ end }}]
{{- $capacity := .Values.capacity | default dict }}
{{- if $capacity.enabled }}
{{- $groups := dict "apps" (dict "Deployment" "deployments" "StatefulSet" "statefulsets") "leaderworkerset.x-k8s.io" (dict "LeaderWorkerSet" "leaderworkersets") }}
{{- range $group, $plurals := $groups }}
{{- $found := list }}
{{- range $kind := $capacity.kinds }}
{{- with get $plurals $kind }}{{ $found = append $found . }}{{ end }}
{{- end }}
{{- if $found }}
- apiGroups: [{{ $group }}]
  resources: [{{ join ", " $found }}]
  verbs: [get, list, watch]
- apiGroups: [{{ $group }}]
  resources: [{{ join "/scale, " $found }}/scale]
  verbs: [patch]
{{- end }}
{{- end }}
- apiGroups: [""]
  resources: [pods]
  verbs: [patch]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch]
- apiGroups: [autoscaling.aibrix.ai]
  resources: [podautoscalers]
  verbs: [list, watch]
{{- if $capacity.promptConfigMaps }}
# Prompts of capacity.warmUp: only of ConfigMaps with the annotation inferencerollouts.dev/prompts is anything sent.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get]
{{- end }}
{{- end }}
{{- end -}}

{{/* The controller's configuration file. Credentials are paths of files that the pod mounts. */}}
{{- define "inference-rollouts.config" -}}
{{- $capacity := .Values.capacity | default dict -}}
{{- $adapters := .Values.adapters | default dict -}}
{{- $key := $adapters.apiKeySecret | default dict -}}
gitopsManagers: {{ toJson .Values.gitopsManagers }}
notifications: {{ toJson ((.Values.notifications | default dict).config | default dict) }}
parallelism: {{ toJson (.Values.parallelism | default dict) }}
pathProbe:
  enabled: {{ .Values.pathProbe.enabled }}
  allow: {{ toJson .Values.pathProbe.allow }}
capacity:
  enabled: {{ $capacity.enabled | default false }}
  {{- if hasKey $capacity "kinds" }}
  kinds: {{ toJson $capacity.kinds }}
  {{- end }}
adapters:
  prefixes: {{ toJson ($adapters.prefixes | default list) }}
  {{- with $adapters.apiKeys }}
  apiKeys:
  {{- range $index, $entry := . }}
  - {namespace: {{ $entry.namespace | quote }}, pool: {{ $entry.pool | default "" | quote }}, file: /etc/inference-rollouts/adapter-keys/{{ $index }}/{{ $entry.secret.key }}}
  {{- end }}
  {{- end }}
  {{- if $key.name }}
  {{- if or .Values.watch.allNamespaces (gt (len .Values.watch.namespaces) 1) }}
  {{- fail "adapters.apiKeySecret would go to the pods of every watched namespace: list modelServers, each with its namespace" }}
  {{- end }}
  apiKeyFile: /etc/inference-rollouts/adapters/{{ $key.key }}
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

{{- /* metadata of what other operators read: `suffix` of the name, `value` with their labels and annotations. */}}
{{- define "inference-rollouts.monitoringMetadata" -}}
name: {{ include "inference-rollouts.fullname" .root }}{{ .suffix }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "inference-rollouts.beside" (dict "own" (include "inference-rollouts.labels" .root) "more" .value.labels) | nindent 2 }}
{{- with .value.annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* What a ServiceMonitor and a PodMonitor say of their one endpoint. The series name Rollouts, pools and pods by labels
that targets have, too: without honorLabels they would be renamed (exported_namespace). */}}
{{- define "inference-rollouts.monitoredEndpoint" -}}
- port: metrics
  honorLabels: true
  {{- with .interval }}
  interval: {{ . }}
  {{- end }}
  {{- with .scrapeTimeout }}
  scrapeTimeout: {{ . }}
  {{- end }}
  {{- with .relabelings }}
  relabelings: {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .metricRelabelings }}
  metricRelabelings: {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- /* What controller and pickers both reach: names (a node's own cache has a link-local address) and the API server. */}}
{{- define "inference-rollouts.egressOfAll" -}}
- ports:
  - {port: 53, protocol: UDP}
  - {port: 53, protocol: TCP}
- ports:
  {{- range .apiServerPorts }}
  - {port: {{ . }}, protocol: TCP}
  {{- end }}
  {{- with .apiServer }}
  to: {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- /* NetworkPolicy peers that have to be named: an empty list would mean everybody, and `required` lets it pass. */}}
{{- define "inference-rollouts.peers" -}}
{{- if not .peers -}}
{{- fail .otherwise -}}
{{- end -}}
{{- toYaml .peers -}}
{{- end -}}

{{- /* Annotations of what runs before an upgrade, by its weight: an account has to be there before its Job. */}}
{{- define "inference-rollouts.upgradeHook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
