// Package epp pins the endpoint picker epp v1.5.0 of the Gateway API Inference Extension, which ours is compared with.
// It holds no code: the binary is built with `go build` from the tool line of go.mod.
package epp
