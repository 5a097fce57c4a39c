"""The rows of the study: healthy rollouts that must not be aborted, and faults that must be found."""

from dataclasses import replace

from benchmarks.statistics.generate import Harm, Noise, Scenario

__all__ = ["FAULTY", "HEALTHY"]

_REAL = Noise(pod=0.04, shock=0.08, shock_ar=0.5, burst=2.0, pod_errors=0.2)
_HEAVY = Noise(pod=0.04, shock=0.25, shock_ar=0.7, burst=0.5, pod_errors=0.2)
_TAU8 = Noise(pod=0.08, shock=0.08, shock_ar=0.5, burst=2.0, pod_errors=0.2)


def _at(name: str, rate: float, percent: float, canary: int, stable: int, noise: Noise) -> Scenario:
    return Scenario(
        name=f"{name} {rate:g}/s {percent:g}% {canary}+{stable}",
        rate=rate,
        weights=((0.0, percent / 100),),
        canary=canary,
        stable=stable,
        noise=noise,
    )


_IID = Noise()
_MAIN = _at("REAL", 20, 10, 2, 18, _REAL)
_STEPS = ((0.0, 0.05), (900.0, 0.10), (1800.0, 0.25), (2700.0, 0.50))

HEALTHY: tuple[Scenario, ...] = (
    _at("IID", 5, 5, 1, 19, _IID),
    _at("IID", 20, 10, 1, 9, _IID),
    _at("IID", 20, 1, 1, 9, _IID),
    _at("REAL", 20, 1, 1, 9, _REAL),
    _at("REAL", 5, 5, 1, 19, _REAL),
    _at("REAL", 5, 10, 1, 9, _REAL),
    _at("REAL", 20, 10, 1, 9, _REAL),
    _at("REAL", 50, 5, 1, 19, _REAL),
    _at("REAL", 50, 10, 1, 9, _REAL),
    _MAIN,
    _at("REAL", 20, 10, 4, 36, _REAL),
    _at("HEAVY", 50, 10, 1, 9, _HEAVY),
    _at("HEAVY", 20, 10, 2, 18, _HEAVY),
    _at("TAU8", 20, 10, 1, 9, _TAU8),
    _at("TAU8", 50, 10, 1, 9, _TAU8),
    replace(_MAIN, name="REAL changing weights", weights=_STEPS),
    replace(_MAIN, name="REAL no history", history_minutes=0),
    replace(_MAIN, name="REAL resets", resets=0.02),
    replace(_MAIN, name="REAL missing 10%", missing=0.1),
    replace(_MAIN, name="REAL autoscaling", scaling=True),
    replace(_MAIN, name="REAL warm-up", cold=True),
    replace(_MAIN, name="REAL sticky users", users=20),
    replace(_MAIN, name="REAL improved -20%", harm=Harm(slower=-0.2, error_rate=0.002)),
)


def _bad(name: str, base: Scenario, **harm: float) -> Scenario:
    where = "" if base is _MAIN else f" {base.name}"
    return replace(base, name=f"{name}{where}", harm=Harm(**harm))


FAULTY: tuple[Scenario, ...] = (
    _bad("TTFT +20%", _MAIN, slower=0.2),
    _bad("TTFT +50%", _MAIN, slower=0.5),
    _bad("errors 0.5 to 5%", _MAIN, error_rate=0.05),
    _bad("errors 0.5 to 1.5%", _MAIN, error_rate=0.015),
    _bad("+50% from minute 30", _MAIN, slower=0.5, onset=1800.0),
    _bad("5% of requests x4", _MAIN, tail_share=0.05),
    _bad("TTFT +10%", _MAIN, slower=0.1),
    _bad("TTFT +20%", _at("REAL", 20, 10, 1, 9, _REAL), slower=0.2),
    _bad("TTFT +20%", _at("REAL", 20, 10, 4, 36, _REAL), slower=0.2),
    _bad("TTFT +20%", _at("REAL", 5, 5, 1, 19, _REAL), slower=0.2),
    _bad("TTFT +50%", _at("REAL", 20, 1, 1, 9, _REAL), slower=0.5),
    _bad("TTFT +20%", _at("HEAVY", 20, 10, 4, 36, _HEAVY), slower=0.2),
    _bad("TTFT +20%", replace(_MAIN, name="changing weights", weights=_STEPS), slower=0.2),
    _bad("TTFT +20%", replace(_MAIN, name="resets", resets=0.02), slower=0.2),
)
