{{- /* Generated from rollouts/carriers by `make generate`. */}}
{{- define "inference-rollouts.trafficRules" -}}
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [inference.networking.x-k8s.io]
  resources: [inferencemodels]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [inference.networking.x-k8s.io, llm-d.ai]
  resources: [inferencemodelrewrites]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [inferencerollouts.dev]
  resources: [poolsplits]
  verbs: [get, list, watch, create, patch, delete]
{{- if .Values.kserve }}
- apiGroups: [serving.kserve.io]
  resources: [llminferenceservices]
  verbs: [get, list, watch, patch]
{{- end }}
{{- end -}}
{{- define "inference-rollouts.watchOptions" -}}
- --{{ if not .Values.kserve }}no-{{ end }}kserve
{{- end -}}
