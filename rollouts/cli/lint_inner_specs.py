"""Misspelt fields in what a Rollout holds for others: the HTTPRoute of a template, the Job of a step.

Our CRDs keep those as they are, so that no API server looks at them before the controller writes them, at the first
weight or in the middle of the steps. Only what is nearly the name of a field is told: later versions have more fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rollouts.cli.lint_words import nearest
from rollouts.cli.yaml_source import Path

__all__ = ["misspelt"]

Fields = Mapping[str, Any]
"""Names of fields, and those below; None: nothing of ours to know."""

_NEAR = 0.84


def _fields(names: str, **below: Fields) -> Fields:
    return {**dict.fromkeys(names.split()), **below}


# --- HTTPRoute: Gateway API 1.5, both channels -------------------------------------------------------

_PAIR = _fields("type name value")
_HEADERS = _fields("remove", set=_PAIR, add=_PAIR)
_PATH = _fields("type replaceFullPath replacePrefixMatch")
_BACKEND = _fields("group kind name namespace port weight")
_FILTER = _fields(
    "type externalAuth",
    requestHeaderModifier=_HEADERS,
    responseHeaderModifier=_HEADERS,
    requestMirror=_fields("percent", backendRef=_BACKEND, fraction=_fields("numerator denominator")),
    requestRedirect=_fields("scheme hostname port statusCode", path=_PATH),
    urlRewrite=_fields("hostname", path=_PATH),
    cors=_fields("allowOrigins allowCredentials allowMethods allowHeaders exposeHeaders maxAge"),
    extensionRef=_fields("group kind name"),
)
_ROUTE = _fields(
    "hostnames useDefaultGateways",
    parentRefs=_fields("group kind namespace name sectionName port"),
    rules=_fields(
        "name",
        matches=_fields("method", path=_fields("type value"), headers=_PAIR, queryParams=_PAIR),
        filters=_FILTER,
        backendRefs={**_BACKEND, "filters": _FILTER},
        timeouts=_fields("request backendRequest"),
        retry=_fields("codes attempts backoff"),
        sessionPersistence=_fields("sessionName absoluteTimeout idleTimeout type cookieConfig"),
    ),
)

# --- Job: Kubernetes 1.36 ----------------------------------------------------------------------------

_META = _fields("name generateName namespace labels annotations finalizers ownerReferences")
_RESOURCES = _fields("limits requests claims")
_SECRET = _fields("name key optional")
_ENV = _fields(
    "name value",
    valueFrom=_fields("resourceFieldRef fileKeyRef fieldRef", configMapKeyRef=_SECRET, secretKeyRef=_SECRET),
)
_PROBE = _fields(
    "exec httpGet tcpSocket grpc initialDelaySeconds timeoutSeconds periodSeconds successThreshold "
    "failureThreshold terminationGracePeriodSeconds"
)
_CONTAINER = _fields(
    "name image command args workingDir restartPolicy restartPolicyRules resizePolicy lifecycle "
    "terminationMessagePath terminationMessagePolicy imagePullPolicy securityContext stdin stdinOnce tty volumeDevices",
    ports=_fields("name hostPort containerPort protocol hostIP"),
    env=_ENV,
    envFrom=_fields("prefix configMapRef secretRef"),
    resources=_RESOURCES,
    volumeMounts=_fields("name readOnly recursiveReadOnly mountPath subPath mountPropagation subPathExpr"),
    livenessProbe=_PROBE,
    readinessProbe=_PROBE,
    startupProbe=_PROBE,
)
_POD = _fields(
    "volumes ephemeralContainers restartPolicy terminationGracePeriodSeconds activeDeadlineSeconds dnsPolicy "
    "nodeSelector serviceAccountName serviceAccount automountServiceAccountToken nodeName hostNetwork hostPID hostIPC "
    "shareProcessNamespace securityContext imagePullSecrets hostname subdomain affinity schedulerName hostAliases "
    "priorityClassName priority dnsConfig readinessGates runtimeClassName enableServiceLinks preemptionPolicy overhead "
    "topologySpreadConstraints setHostnameAsFQDN os hostUsers schedulingGates resourceClaims hostnameOverride "
    "workloadRef schedulingGroup",
    containers=_CONTAINER,
    initContainers=_CONTAINER,
    tolerations=_fields("key operator value effect tolerationSeconds"),
    resources=_RESOURCES,
)
_JOB = _fields(
    "parallelism completions activeDeadlineSeconds podFailurePolicy successPolicy backoffLimit backoffLimitPerIndex "
    "maxFailedIndexes selector manualSelector ttlSecondsAfterFinished completionMode suspend podReplacementPolicy "
    "managedBy",
    template=_fields("", metadata=_META, spec=_POD),
)


def misspelt(value: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, str]]:
    """Fields that are nearly one that there is, with that, of what stands at ``path`` in a Rollout or a strategy."""
    if path[-1:] == ("template",) and "httpRoutes" in path:
        yield from _walk(_ROUTE, value, path)
    elif path[-2:] == ("job", "spec"):
        yield from _walk(_JOB, value, path)


def _walk(known: Fields, value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Bounded by the depth of ``known`` and linear in the value."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(known, item, (*path, index))
    if not isinstance(value, Mapping):
        return
    for name, child in value.items():
        if name not in known:
            near = nearest(str(name), [one for one in known if one not in value], cutoff=_NEAR)
            if near:
                yield (*path, str(name)), near
        elif known[name] is not None:
            yield from _walk(known[name], child, (*path, name))
