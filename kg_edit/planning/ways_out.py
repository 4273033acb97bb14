"""What to do where a job does not fit, the nearest way first."""

from __future__ import annotations

from kg_edit.planning.estimate import Estimate


def ways_out(found: Estimate) -> tuple[str, ...]:
    """Ways to make it fit; none where it does."""
    if not found.lacking:
        return ()
    ways = (_smaller_numbers(found), _less_at_once(found), _covariance(found), _elsewhere(found))
    return tuple(filter(None, ways))


def _bytes_of(found: Estimate, *parts: str) -> float:
    return sum(part.bytes for part in found.memory if part.what in parts)


def _smaller_numbers(found: Estimate) -> str:
    if found.job.size <= 2 or found.job.place not in found.lacking:
        return ""
    saved = found.job.shape.parameters * (found.job.size - 2) / 1e9
    return f"--dtype bfloat16 takes {saved:.1f} GB less for the model; edits are solved in float32 all the same"


def _less_at_once(found: Estimate) -> str:
    states = _bytes_of(found, "states for the way back")
    if states < 0.1 * max(found.needed(place) for place in found.lacking):
        return ""
    return f"`kg-edit evaluate --memory {states / 2e6:.0f}` makes passes smaller: the same results, a little slower"


def _covariance(found: Estimate) -> str:
    held = _bytes_of(found, "C and its factors", "factoring C")
    if "main memory" not in found.lacking or held < 0.2 * found.needed("main memory"):
        return ""
    return f"C takes {held / 1e9:.1f} GB: fewer layers need less, and ft-m, lora or grace need no C"


def _elsewhere(found: Estimate) -> str:
    short = max(found.needed(place) - (found.available(place) or 0) for place in found.lacking) / 1e9
    where = " and ".join(found.lacking)
    return f"{short:.1f} GB more {where}, or a smaller model; from Python device_map='auto' spreads it over devices"
