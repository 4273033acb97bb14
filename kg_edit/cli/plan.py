"""`kg-edit plan`: the memory and the time to expect, before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.method_plan import check_names, doing
from kg_edit.cli.options import CorpusName, Device, Dtype, Memory, MethodName, ModelName, Preset, Settings
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from rich.table import Table

    from kg_edit.planning.estimate import Estimate

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
Layer = Annotated[int | None, typer.Option("--layer", min=0, help="edited layer, 0-based")]
Edits = Annotated[int, typer.Option("--edits", min=1, help="number of edits")]


def plan(
    model: ModelName = "smollm2-135m",
    method: MethodName = "glame",
    edits: Edits = 1,
    layer: Layer = None,
    preset: Preset = "default",
    settings: Settings = None,
    corpus: CorpusName = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    memory: Memory = None,
) -> None:
    """Estimate the memory and time of edits on this machine, without loading the model.

    Sizes come from the model's config, the speed from one second of matrix products. With the name of a preset as
    `--model`, nothing is downloaded: gpt2-xl, gpt-j, llama-2-7b, llama-3-8b, qwen2.5-7b, smollm2-135m. Times and memory
    are within 25 % for models of 135 M to 1.5 B parameters; docs/speed.md lists the exceptions.

    Example: `kg-edit plan --model llama-3-8b --method alphaedit --preset llama-3-8b --edits 100`
    """
    check_names(method)
    from kg_edit.cli.method_plan import plan as planned
    from kg_edit.models.loading import pick_dtype
    from kg_edit.planning.estimate import estimate
    from kg_edit.planning.machine import this_machine
    from kg_edit.planning.shape import shape_of

    chosen = planned(method, preset=preset, layer=layer, settings=settings, corpus=corpus)
    machine = this_machine(device)
    with doing(f"estimating {model}"):
        shape = shape_of(model)
        kind = pick_dtype(dtype, machine.device)
        found = estimate(
            chosen.method, chosen.config, shape, machine, edits=edits, dtype=kind, limit=memory or chosen.method.memory
        )
    for line in _said(found, method, str(kind).removeprefix("torch.")):
        stdout().print(line if not isinstance(line, str) else plain(line), soft_wrap=isinstance(line, str))


def _said(found: Estimate, method: str, dtype: str) -> list[Table | str]:
    job = found.job
    shape, layers = job.shape, job.recipe.layers
    named = ", ".join(map(str, layers[:8])) + (", …" if len(layers) > 8 else "")
    title = (
        f"{method} on {shape.name}: {shape.family}, {shape.parameters / 1e9:.2f} B parameters, {shape.layers} blocks, "
        f"d {shape.width}, d_ff {shape.inner}; {dtype} on {job.machine.device}; layers: {named or 'none'}"
    )
    once = f", {_time(found.kept_seconds)} of it only once per model and layer" if found.kept_seconds else ""
    total = f"{job.edits} edit{'s' if job.edits > 1 else ''}: about {_time(found.seconds)}{once}"
    return [title, _memory_table(found), _time_table(found), total, *job.recipe.notes, *_verdict(found)]


def _memory_table(found: Estimate) -> Table:
    table = _table("memory", "bytes", "where", "when", "calculation")
    for part in found.memory:
        table.add_row(part.what, _bytes(part.bytes), part.place, part.phase, part.formula)
    return table


def _time_table(found: Estimate) -> Table:
    table = _table("time", "seconds", "calculation")
    for one in found.time:
        table.add_row(one.what + (" (once, kept)" if one.kept else ""), _time(one.seconds), one.formula)
    return table


def _table(*headers: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for place, header in enumerate(headers):
        table.add_column(header, justify="right" if place == 1 else "left", overflow="fold")
    return table


def _verdict(found: Estimate) -> list[str]:
    from kg_edit.planning.estimate import PLACES, suggestions

    said = []
    for place in PLACES:
        if needed := found.needed(place):
            free = found.available(place)
            have = "free memory unknown" if free is None else f"{_bytes(free)} free"
            verdict = "does not fit" if place in found.lacking else "please check" if free is None else "fits"
            said.append(f"{place}: {_bytes(needed)} at the peak, {have}: {verdict}")
    return [*said, *(f"suggestion: {way}" for way in suggestions(found))]


def _bytes(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    for unit, name in ((_DAY, "days"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"
