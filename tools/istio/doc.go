// Package istio pins the istiod that `make peers` builds and runs our scenarios on.
package istio
