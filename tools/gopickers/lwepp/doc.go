// Package lwepp pins the endpoint picker lwepp v1.6.0 of the Gateway API Inference Extension, which ours is compared with.
// It holds no code: the binary is built with `go build` from the tool line of go.mod.
package lwepp
