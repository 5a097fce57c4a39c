// Package victoriametrics pins the VictoriaMetrics that `make peers` builds and asks what the controller asks a Prometheus.
package victoriametrics
