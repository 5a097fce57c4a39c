"""``rollouts lab``: the local environment and its stories."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from rollouts.cli.lab_load import load
from rollouts.cli.logs import configure_logs
from rollouts.lab.checkout import EXAMPLES

__all__ = ["lab", "require_lab", "running_lab"]

_DIRECTORY = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "inference-rollouts" / "lab"
_STATE = "lab.json"
_CONTROL_PLANES = click.Choice(["auto", "memory", "real"])
_UP_SECONDS = 120.0
_BY_PICKER = ("lora", "variants")
"""Stories of splits that no gateway makes."""
_OF_THEIR_OWN = ("one-picker", "no-split")
_PICKERS = click.option(
    "--pickers/--no-pickers",
    default=True,
    show_default=True,
    help="Run our endpoint pickers for the pools; without them the gateway balances the pods itself.",
)

_LIKES = (
    "standard",
    "istio",
    "ai-gateway",
    "kgateway",
    "nginx-gateway-fabric",
    "agentgateway",
    "late-status",
    "no-status",
    "no-generation",
    "leftover-status",
)
"""Values of ``rollouts.lab.gateway.likeness.GatewayLike``, which is not imported for a command's help."""

_POD_STARTUP = click.option(
    "--pod-startup",
    type=click.FloatRange(0, 600),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="Of Pods that Deployments make: from when they run to when they are Ready.",
)

_LIKE = click.option(
    "--gateway-like",
    type=click.Choice(_LIKES),
    default="standard",
    show_default=True,
    help="Play what another gateway makes of two weighted pools in one rule, how it speaks to pickers, or reports.",
)


@click.group()
def lab() -> None:
    """API server, Envoy gateway, simulated vLLM pods and the controller, on this machine; from a checkout."""


@lab.command()
@click.argument(
    "story",
    type=click.Choice(
        ["base-model", "lora", "variants", "kserve", "analysis", "capacity", "one-picker", "no-split"]
    ),
)
@click.option("--bad", is_flag=True, help="Make the canary worse, so that it is aborted.")
@click.option(
    "--hang",
    type=click.Choice(["leave", "stay"]),
    help="Of `analysis`: the canary's engines stop in mid-canary, behind pods that stay healthy; clients leave after "
    "eight seconds, or stay.",
)
@click.option(
    "--cold",
    is_flag=True,
    help="Of `capacity`: without warmUp, so that users meet pods that have answered nothing yet.",
)
@click.option("--control-plane", type=_CONTROL_PLANES, default="memory", show_default=True)
@_PICKERS
@_LIKE
def demo(
    story: str,
    bad: bool,
    hang: str | None,
    cold: bool,
    control_plane: str,
    pickers: bool,
    gateway_like: str,
) -> None:
    """Tell a scripted story on real Envoy traffic. Exit status 0 when it ends as promised.

    On a gateway that splits no pools, or says nothing of its routes, stories of pools end otherwise: an abort.
    """
    _refuse(story, bad=bad, hang=hang, cold=cold, pickers=pickers, gateway_like=gateway_like)
    _need_checkout()
    _need_envoy()
    from rollouts.lab.processes import ProcessStartError
    from rollouts.lab.telling import StoryFailed, story_directory

    directory = story_directory()
    directory.mkdir(parents=True, exist_ok=True)
    configure_logs_to(directory / "lab.log")
    console = Console(highlight=False)
    try:
        asyncio.run(
            _tell(
                story,
                directory,
                console,
                bad=bad,
                hang=hang,
                cold=cold,
                control_plane=control_plane,
                pickers=pickers,
                gateway_like=gateway_like,
            )
        )
    except (StoryFailed, ProcessStartError) as failure:
        console.print(f"the story failed: {failure}", style="bold red", markup=False)
        sys.exit(1)


def _refuse(story: str, *, bad: bool, hang: str | None, cold: bool, pickers: bool, gateway_like: str) -> None:
    """Raises UsageError for what cannot be told together."""
    if story in _BY_PICKER and not pickers:
        raise click.UsageError(f"the endpoint picker splits here: {story} needs --pickers")
    if story == "capacity" and not pickers:
        raise click.UsageError(
            "the endpoint picker spares pods that are about to go: capacity needs --pickers"
        )
    if story in _OF_THEIR_OWN and gateway_like != "standard":
        raise click.UsageError(f"{story} chooses its gateway itself")
    if story in _BY_PICKER and gateway_like == "nginx-gateway-fabric":
        raise click.UsageError(
            "this gateway drops the bodies that a picker rewrites: other model names cannot be sent there"
        )
    if hang and (story != "analysis" or bad):
        raise click.UsageError("--hang is an ending of `analysis`, in place of --bad")
    if cold and (story != "capacity" or bad):
        raise click.UsageError("--cold is another beginning of `capacity`, in place of --bad")


def configure_logs_to(path: Path) -> None:
    """The lab's own log goes to a file: the terminal belongs to the story."""
    import structlog

    configure_logs("json")
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=path.open("a", encoding="utf-8")))


async def _tell(
    story: str,
    directory: Path,
    console: Console,
    *,
    bad: bool,
    hang: str | None,
    cold: bool,
    control_plane: str,
    pickers: bool,
    gateway_like: str,
) -> None:
    from rollouts.lab import story_capacity
    from rollouts.lab.controlplane import Choice
    from rollouts.lab.environment import Lab, base_model_pods, gpu_node
    from rollouts.lab.gateway.likeness import GatewayLike
    from rollouts.lab.story import Clients, tell_analysis, tell_base_model, tell_hang
    from rollouts.lab.story_kserve import kserve_pods, tell_kserve
    from rollouts.lab.story_lora import tell_lora
    from rollouts.lab.story_peers import PLAYED, tell_no_split, tell_one_picker
    from rollouts.lab.story_variants import tell_variants, variant_pods

    tell = {
        "base-model": tell_base_model,
        "lora": tell_lora,
        "variants": tell_variants,
        "kserve": tell_kserve,
        "analysis": tell_analysis,
        "capacity": story_capacity.tell_capacity,
        "one-picker": tell_one_picker,
        "no-split": tell_no_split,
    }[story]
    like = PLAYED.get(story, GatewayLike(gateway_like))
    pods = base_model_pods(canary=0) if story == "lora" else base_model_pods()
    pods = {"variants": variant_pods, "kserve": kserve_pods}.get(story, lambda: pods)()
    scaled: dict[str, Any] = {}
    if story == "capacity":
        pods = []
        scaled = {
            "nodes": gpu_node(story_capacity.GPUS),
            "pod_startup": story_capacity.POD_STARTUP,
            "latency": story_capacity.LATENCY,
        }
    async with Lab(
        directory,
        choice=Choice(control_plane),
        pods=pods,
        **scaled,
        pickers=pickers,
        gateway_like=like,
        prometheus=story == "analysis" and _prometheus_there(console),
        say=console.print,
    ) as running:
        if hang is not None:
            await tell_hang(running, console, clients=Clients(hang))
        elif cold:
            await story_capacity.tell_capacity(running, console, bad=False, warm=False)
        else:
            await tell(running, console, bad=bad)


@lab.command()
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@click.option("--control-plane", type=_CONTROL_PLANES, default="memory", show_default=True)
@click.option(
    "--prometheus/--no-prometheus",
    default=False,
    show_default=True,
    help="Run a real Prometheus (Debian's package, downloaded once) as the source `default`.",
)
@click.option(
    "--gpus",
    type=click.IntRange(2, 100),
    metavar="N",
    help="Offer a node with so many GPUs, and run the Deployments of examples/base-model-capacity: all GPUs but one "
    "have a pod of the old model. The controller may scale them.",
)
@_POD_STARTUP
@_PICKERS
@_LIKE
def up(
    output: str,
    control_plane: str,
    prometheus: bool,
    gpus: int | None,
    pod_startup: float,
    pickers: bool,
    gateway_like: str,
) -> None:
    """Start a lab that stays: the examples' pools, models, gateway and route, pickers and controller.

    Rollouts and traffic are left to you.
    """
    if gpus and prometheus:
        raise click.UsageError("--prometheus scrapes the pods that are there from the start: not with --gpus")
    if running_lab() is not None:
        raise click.ClickException(
            f"a lab is running already: `rollouts lab down` first (state in {_DIRECTORY})"
        )
    _need_checkout()
    _need_envoy()
    if prometheus:
        _need_prometheus()
    shutil.rmtree(_DIRECTORY, ignore_errors=True)
    _DIRECTORY.mkdir(parents=True)
    log = (_DIRECTORY / "lab.log").open("ab")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "rollouts.lab.daemon",
            str(_DIRECTORY),
            control_plane,
            gateway_like,
            *_flags(pickers, prometheus),
            *([f"--gpus={gpus}"] if gpus else []),
            f"--pod-startup={pod_startup:g}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    deadline = time.monotonic() + _UP_SECONDS + pod_startup
    while time.monotonic() < deadline:
        state = running_lab()
        if state is not None:
            click.echo(json.dumps(state, indent=2) if output == "json" else _describe(state))
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    process.terminate()
    raise click.ClickException(f"the lab did not come up: see {_DIRECTORY / 'lab.log'}")


@lab.command()
def down() -> None:
    """Stop the lab that `up` started."""
    state = running_lab()
    if state is None:
        click.echo("no lab is running")
        return
    pid = int(str(state["pid"]))
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and _alive(pid):
        time.sleep(0.1)
    if _alive(pid):
        raise click.ClickException(f"process {pid} does not end: see {_DIRECTORY / 'lab.log'}")
    (_DIRECTORY / _STATE).unlink(missing_ok=True)
    click.echo("stopped")


@lab.command(name="set")
@click.argument("pod")
@click.argument("knobs", nargs=-1, required=True, metavar="KNOB=VALUE...")
def set_knobs(pod: str, knobs: tuple[str, ...]) -> None:
    """Turn knobs of a running pod: `ttft=+50% errors=5% queue=20ms ready=false`."""
    import requests

    pods = require_lab()["pods"]
    assert isinstance(pods, dict)
    if pod not in pods:
        raise click.ClickException(f"there is no pod {pod}; there are {', '.join(sorted(pods))}")
    body: dict[str, str | bool] = {}
    for knob in knobs:
        name, separator, value = knob.partition("=")
        if not separator:
            raise click.UsageError(f"{knob}: write KNOB=VALUE")
        body[name] = {"true": True, "false": False}.get(value, value)
    answer = requests.post(f"{pods[pod]}/lab/knobs", json=body, timeout=5)
    if answer.status_code != 200:
        raise click.ClickException(f"{pod}: {answer.text[:300]}")
    click.echo(answer.text)


lab.add_command(load)


def require_lab() -> dict[str, object]:
    """What the running lab wrote about itself. Raises ClickException where none runs."""
    state = running_lab()
    if state is None:
        raise click.ClickException("no lab is running: `rollouts lab up` first")
    return state


def _flags(pickers: bool, prometheus: bool) -> list[str]:
    return [*([] if pickers else ["--no-pickers"]), *(["--prometheus"] if prometheus else [])]


def _need_checkout() -> None:
    if not EXAMPLES.is_dir():
        raise click.ClickException(
            "the lab runs from a checkout of the project: it applies what is in examples/, which no wheel has. "
            "Run `make setup` there, then its .venv/bin/rollouts"
        )


def _need_envoy() -> None:
    from rollouts.lab.gateway.envoy import EnvoyNotInstalledError, find_envoy

    try:
        find_envoy()
    except EnvoyNotInstalledError as error:
        raise click.ClickException(str(error)) from None


def _need_prometheus() -> None:
    from rollouts.lab.prometheus import PrometheusMissingError, find_prometheus

    try:
        find_prometheus()
    except PrometheusMissingError as error:
        raise click.ClickException(str(error)) from None


def _prometheus_there(console: Console) -> bool:
    """Whether the story can be told through a real Prometheus; said either way."""
    from rollouts.lab.prometheus import PrometheusMissingError, find_prometheus

    try:
        console.print(f"measured through {find_prometheus()}")
    except PrometheusMissingError as error:
        console.print(f"measured at the pods themselves: {error}")
        return False
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A child of ours that has ended is a zombie until it is waited for.
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return True


def running_lab() -> dict[str, object] | None:
    """What the running lab wrote about itself; None where none runs."""
    try:
        state = json.loads((_DIRECTORY / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and _alive(int(state["pid"])) else None


_HINTS = (
    "kubectl apply --server-side -f examples/base-model/rollout-demo.yaml",
    "kubectl apply --server-side -f examples/lora/rollout-demo.yaml    # curl with model travelhelper",
)
_SCALING_HINTS = (
    "kubectl apply --server-side -f examples/base-model-capacity/rollout-demo.yaml",
    "kubectl get deployments,pods --watch",
)


def _describe(state: dict[str, object]) -> str:
    pods, pickers = state["pods"], state["pickers"]
    assert isinstance(pods, dict)
    sources = state.get("sources", {})
    assert isinstance(pickers, dict)
    assert isinstance(sources, dict)
    lines = [
        f"API server   {state['controlPlane']}",
        f"kubeconfig   {state['kubeconfig']}",
        f"gateway      {state['gateway']}",
        f"metrics      {state['metrics']}",
        *(f"picker       {name} {url}" for name, url in pickers.items()),
        *(f"prometheus   {url}" for name, url in sources.items() if name == "default"),
        f"logs         {state['logs']}",
        "pods         " + "\n             ".join(f"{name} {url}" for name, url in pods.items()),
        "",
        f"export KUBECONFIG={state['kubeconfig']}",
        *(_SCALING_HINTS if state.get("gpus") else _HINTS),
        f"curl {state['gateway']}/v1/chat/completions -H 'content-type: application/json' "
        '-d \'{"model":"mymodel","messages":[{"role":"user","content":"hello"}]}\'',
    ]
    return "\n".join(lines)
