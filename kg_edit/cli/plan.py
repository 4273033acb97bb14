"""`kg-edit plan`: the memory that edits will take, before anything is loaded."""

from __future__ import annotations

from typing import Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.method_plan import doing
from kg_edit.cli.options import CorpusName, Device, Dtype, Layer, Memory, MethodName, ModelName, Preset, Settings
from kg_edit.methods.registry import check_method
from kg_edit.text.display import plain, size_text

Edits = Annotated[int, typer.Option("--edits", min=1, help="Number of edits.")]


def plan(
    model: ModelName = "smollm2-135m",
    method: MethodName = "rome",
    edits: Edits = 1,
    layer: Layer = None,
    preset: Preset = "default",
    settings: Settings = None,
    corpus: CorpusName = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    memory: Memory = None,
) -> None:
    """Estimate the memory of edits on this machine, without loading the model.

    Sizes come from the model's config; `--device cuda` also plans for a GPU that is not here. With the name of a preset
    as `--model`, nothing is downloaded: gemma-3-27b, gemma-3-4b, gpt-j, gpt2-xl, llama-2-7b, llama-3-8b, llama-3.1-8b,
    llama-3.2-1b, llama-3.2-3b, mistral-7b, olmo-2-7b, phi-4, qwen2.5-7b, qwen3-4b, qwen3-8b, smollm2-135m.

    Examples:

    - `kg-edit plan --model llama-3-8b --method alphaedit --preset llama-3-8b --edits 100`
    """
    check_method(method)
    from rich.table import Table

    from kg_edit.cli.method_plan import plan as planned
    from kg_edit.covariance.corpora import open_corpus
    from kg_edit.models.loading import pick_dtype
    from kg_edit.planning.machine import this_machine
    from kg_edit.planning.memory import MEMORIES, estimate, suggestions
    from kg_edit.planning.shape import shape_of

    chosen = planned(method, preset=preset, layer=layer, settings=settings, corpus=corpus)
    if measured := chosen.config.workload(edits=edits).covariance:
        open_corpus(measured.corpus)  # a text that can't be read is an error here too
    machine = this_machine(device)
    with doing(f"estimating {model}"):
        shape = shape_of(model)
        kind = pick_dtype(dtype, machine.device)
        needs = estimate(chosen.method, chosen.config, shape, machine, edits=edits, dtype=kind, limit=memory)

    layers = ", ".join(map(str, needs.job.layers[:8])) + (", …" if len(needs.job.layers) > 8 else "")
    lines = [
        f"{method} on {shape.name}: {shape.family}, {shape.parameters / 1e9:.2f} B parameters, {shape.layers} blocks, "
        f"d {shape.width}, d_ff {shape.inner}; {str(kind).removeprefix('torch.')} on {machine.device}; "
        f"layers: {layers or 'none'}"
    ]
    table = Table(box=None, pad_edge=False)
    for column, header in enumerate(("memory", "bytes", "where", "when", "calculation")):
        table.add_column(header, justify="right" if column == 1 else "left", overflow="fold")
    for part in needs.parts:
        table.add_row(part.what, size_text(part.bytes), part.memory, part.phase, part.formula)
    verdicts = [*needs.notes]
    if any(part.what == "comparing C" for part in needs.parts):
        verdicts.append("comparing C: C is solved with all and with half of its tokens, which shows its error")
    for where in MEMORIES:
        if needed := needs.needed(where):
            free = needs.available(where)
            have = ", free memory unknown: please check"
            if not machine.is_here:
                have = f" ({machine.device} is not here, so what is free is not known)"
            elif free is not None:
                have = f", {size_text(free)} free: {'does not fit' if where in needs.lacking else 'fits'}"
            verdicts.append(f"{where}: {size_text(needed)} at the peak{have}")
    verdicts += [f"suggestion: {way}" for way in suggestions(needs)]
    for line in (*lines, table, *verdicts):
        stdout().print(plain(line) if isinstance(line, str) else line, soft_wrap=isinstance(line, str))
