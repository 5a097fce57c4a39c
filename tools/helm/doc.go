// Package helm pins the helm that renders the chart in the tests.
// It holds no code: the binary is built with `go build` from the tool line of go.mod.
package helm
