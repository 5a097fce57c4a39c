"""An API server in memory: for fault plans in virtual time, for the lab, and for kubectl over HTTP.

It agrees with kube-apiserver on what the controller depends on: resourceVersions, optimistic locking,
the status subresource, generation, finalizers, watches with bookmarks and 410, field managers,
server-side apply, JSON and merge patch, pruning, defaults and schema validation of custom resources.
One suite runs against both servers (tests/cluster/test_transport.py).

What it does not do, and says so at start and in ``/version``: CEL rules, admission webhooks, RBAC,
garbage collection by ownerReferences, list-type maps in server-side apply (every list is one value).
"""
