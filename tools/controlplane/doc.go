// Package controlplane pins the kube-apiserver, etcd, kube-controller-manager and kube-scheduler that the tests and the lab run against.
// It holds no code: the binaries are built with `go build` from the tool lines of go.mod.
package controlplane
