"""Builders of raw objects, as an API server or a file would give them."""

import importlib
from collections.abc import Iterable
from typing import Any

import pytest

Object = dict[str, Any]


class Objects:
    """A small cluster: one pool, pods, a split; each method makes one object."""

    @staticmethod
    def pool(name: str = "pool", *, v1: bool = False, ports: tuple[int, ...] = (8000,)) -> Object:
        labels = {"app": name}
        spec: Object = {"selector": labels, "targetPortNumber": ports[0]}
        if v1:
            spec = {"selector": {"matchLabels": labels}, "targetPorts": [{"number": port} for port in ports]}
        version = "inference.networking.k8s.io/v1" if v1 else "inference.networking.x-k8s.io/v1alpha2"
        return {"apiVersion": version, "kind": "InferencePool", "metadata": {"name": name}, "spec": spec}

    @staticmethod
    def pod(ip: str, *, pool: str = "pool", ready: str = "True", name: str = "", **metadata: Any) -> Object:
        condition = {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name or f"pod-{ip}", "labels": {"app": pool}, **metadata},
            "status": {"podIP": ip, "conditions": [condition]},
        }

    @staticmethod
    def model(weights: dict[str, int | None], *, name: str = "m", **spec: Any) -> Object:
        targets = [{"name": k} if v is None else {"name": k, "weight": v} for k, v in weights.items()]
        spec = {"modelName": "travelhelper", "poolRef": {"name": "pool"}, "targetModels": targets, **spec}
        return {
            "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
            "kind": "InferenceModel",
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec,
        }

    @staticmethod
    def rewrite(
        weights: dict[str, int],
        *,
        model: str | None = "travelhelper",
        field: str = "targets",
        group: str = "inference.networking.x-k8s.io",
        name: str = "r",
        created: str = "2026-01-01T00:00:00Z",
    ) -> Object:
        rule: Object = {field: [{"modelRewrite": k, "weight": v} for k, v in weights.items()]}
        if model is not None:
            rule["matches"] = [{"model": {"value": model}}]
        return {
            "apiVersion": f"{group}/v1alpha2",
            "kind": "InferenceModelRewrite",
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"poolRef": {"name": "pool"}, "rules": [rule]},
        }

    @staticmethod
    def pool_split(
        weights: dict[str, int],
        *,
        models: dict[str, str] | None = None,
        name: str = "s",
        pool: str = "pool",
        created: str = "2026-01-01T00:00:00Z",
        **spec: Any,
    ) -> Object:
        """A variant per weight, whose pods have the label ``release`` of its name."""
        variants = [
            {
                "name": variant,
                "labels": {"release": variant},
                "weight": weight,
                "model": (models or {}).get(variant, ""),
            }
            for variant, weight in weights.items()
        ]
        return {
            "apiVersion": "inferencerollouts.dev/v1alpha1",
            "kind": "PoolSplit",
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"poolRef": {"name": pool}, "variants": variants, **spec},
        }

    @classmethod
    def variant_pod(cls, ip: str, release: str, **metadata: Any) -> Object:
        """A Ready pod of the pool whose label ``release`` says what it is."""
        return cls.pod(ip, labels={"app": "pool", "release": release}, **metadata)

    @staticmethod
    def variant_rollout(*, model: str = "", **strategy: Any) -> Object:
        return {
            "apiVersion": "inferencerollouts.dev/v1alpha1",
            "kind": "Rollout",
            "metadata": {"name": "r1", "namespace": "default"},
            "spec": {
                "target": {"variant": {"name": "v2", "labels": {"release": "v2"}}},
                "traffic": {"inferencePool": {"name": "pool", "modelName": model}},
                "strategy": {"canary": strategy},
            },
            "status": {"phase": "Progressing", "stable": {"name": "v1"}, "canary": {"name": "v2"}},
        }

    @staticmethod
    def rollout(*, phase: str = "Progressing", canary: bool = True, **strategy: Any) -> Object:
        status: Object = {"phase": phase, "stable": {"kind": "Adapter", "name": "v1"}}
        if canary:
            status["canary"] = {"kind": "Adapter", "name": "v2"}
        return {
            "apiVersion": "inferencerollouts.dev/v1alpha1",
            "kind": "Rollout",
            "metadata": {"name": "travelhelper", "namespace": "default"},
            "spec": {
                "target": {"adapter": {"name": "v2"}},
                "traffic": {"inferenceModel": {"name": "m", "modelName": "travelhelper"}},
                "strategy": {"canary": strategy},
            },
            "status": status,
        }


@pytest.fixture(scope="session")
def objects() -> Objects:
    return Objects()


@pytest.fixture(scope="module", params=["python", "native"])
def data_path(request: pytest.FixtureRequest) -> Iterable[str]:
    """Runs a module's tests on both data paths: natively the names in its ``BOTH`` are tests/kit/twins's."""
    if request.param == "python":
        yield "python"
        return
    try:
        importlib.import_module("inference_rollouts_native")
    except ImportError:
        pytest.skip("the native data path is not built here: `make setup` does it where cargo is")
    twins = importlib.import_module("tests.kit.twins")
    with pytest.MonkeyPatch.context() as patch:
        for name in request.module.BOTH:
            patch.setattr(request.module, name, getattr(twins, name))
        yield "native"
