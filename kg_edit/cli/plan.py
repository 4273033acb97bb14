"""`kg-edit plan`: the memory that edits will take, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.method_plan import doing, plan_method
from kg_edit.cli.options import CorpusName, Device, Dtype, EditPreset, Layer, Memory, MethodName, ModelName, Settings
from kg_edit.methods.registry import check_method
from kg_edit.text.display import plain, size_text

if TYPE_CHECKING:
    from rich.table import Table

    from kg_edit.planning.machine import Machine
    from kg_edit.planning.memory import Estimate

_LAYERS_NAMED = 8  # layers that are named, at most

Edits = Annotated[int, typer.Option("--edits", min=1, help="Number of edits.")]


def plan(
    model: ModelName = "smollm2-135m",
    method: MethodName = "rome",
    edits: Edits = 1,
    layer: Layer = None,
    preset: EditPreset = None,
    settings: Settings = None,
    corpus: CorpusName = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    memory: Memory = None,
) -> None:
    """Estimate the memory of edits on this machine, without loading the model.

    Sizes come from the model's config; `--device cuda` also plans for a GPU that is not here. For these models nothing
    is downloaded: gemma-3-27b, gemma-3-4b, gpt-j, gpt2-xl, llama-2-7b, llama-3-8b, llama-3.1-8b,
    llama-3.2-1b, llama-3.2-3b, mistral-7b, olmo-2-7b, phi-4, qwen2.5-7b, qwen3-4b, qwen3-8b, smollm2-135m.

    Examples:

    - `kg-edit plan --model llama-3-8b --method alphaedit --preset llama-3-8b --edits 100`
    """
    check_method(method)
    from kg_edit.covariance.corpora import open_corpus
    from kg_edit.models.loading import QUANTISED, pick_dtype
    from kg_edit.planning.machine import this_machine
    from kg_edit.planning.memory import estimate
    from kg_edit.planning.shape import shape_of

    # Everything that can be wrong is checked before the sizes are read, which may take a download.
    method_plan = plan_method(method, preset=preset, layer=layer, settings=settings, corpus=corpus)
    covariance = method_plan.config.workload(edits=edits).covariance
    if covariance:
        open_corpus(covariance.corpus)  # a text that can't be read is an error here too
    machine = this_machine(device)
    # ``--dtype nf4`` stores the weights in nf4, and computes in another dtype.
    compute_dtype = pick_dtype(dtype, machine.device)
    quantised = ""
    if dtype in QUANTISED:
        quantised = dtype
    with doing(f"estimating {model}"):
        shape = shape_of(model)
        needs = estimate(
            method_plan.method,
            method_plan.config,
            shape,
            machine,
            edits=edits,
            dtype=compute_dtype,
            limit=memory,
            quantised=quantised,
        )

    dtype_name = quantised or str(compute_dtype).removeprefix("torch.")
    _print_line(
        f"{method} on {shape.name}: {shape.family}, {shape.parameters / 1e9:.2f} B parameters, {shape.layers} blocks, "
        f"d {shape.width}, d_ff {shape.inner}; {dtype_name} on {machine.device}; "
        f"layers: {_name_layers(needs.job.layers)}"
    )
    _print_estimate(needs, machine)


def _print_estimate(needs: Estimate, machine: Machine) -> None:
    """Print what takes memory, what fits, and what would take less."""
    from kg_edit.planning.memory import suggest_ways

    stdout().print(_parts_table(needs))
    for line in needs.notes:
        _print_line(line)
    if any(part.what == "comparing C" for part in needs.parts):
        _print_line("comparing C: C is solved with all and with half of its tokens, which shows its error")
    for line in _compare_with_free(needs, machine):
        _print_line(line)
    for way in suggest_ways(needs):
        _print_line(f"suggestion: {way}")


def _print_line(line: str) -> None:
    stdout().print(plain(line), soft_wrap=True)


def _name_layers(layers: Sequence[int]) -> str:
    """Return the first layers in words."""
    if not layers:
        return "none"
    names = [str(layer) for layer in layers[:_LAYERS_NAMED]]
    if len(layers) > _LAYERS_NAMED:
        names.append("…")
    return ", ".join(names)


def _parts_table(needs: Estimate) -> Table:
    """Return the table of what takes memory, with the calculation of each size."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("memory", overflow="fold")
    table.add_column("bytes", overflow="fold", justify="right")
    for header in ("where", "when", "calculation"):
        table.add_column(header, overflow="fold")
    for part in needs.parts:
        table.add_row(part.what, size_text(part.bytes), part.where, part.phase, part.formula)
    return table


def _compare_with_free(needs: Estimate, machine: Machine) -> list[str]:
    """Return a line for each kind of memory that is needed: how much at the peak, and whether it is free."""
    from kg_edit.planning.job import MEMORIES

    lines = []
    for where in MEMORIES:
        needed = needs.needed(where)
        if not needed:
            continue
        free = needs.available(where)
        if not machine.is_here:
            have = f" ({machine.device} is not here, so what is free is not known)"
        elif free is None:
            have = ", free memory unknown: please check"
        elif where in needs.lacking:
            have = f", {size_text(free)} free: does not fit"
        else:
            have = f", {size_text(free)} free: fits"
        lines.append(f"{where}: {size_text(needed)} at the peak{have}")
    return lines
