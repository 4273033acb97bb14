"""The points of `bench/growth.py`, each measured in a process of its own, and what a plan predicts for the same.

Seconds are processor time of one thread. ``peak_mb`` is the most memory that the process held, ``above_mb`` the most
above what it held before the step. Random weights, words made up: only shapes matter.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import torch

from kg_edit.covariance.moment import Covariance
from kg_edit.covariance.store import CovarianceConfig, measure_covariances
from kg_edit.edits.edit import Edit
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.methods import EditingMethod, MethodConfig, find_method
from kg_edit.methods.value_method import ValueConfig, ValueMethod
from kg_edit.models.language_model import LanguageModel
from kg_edit.planning.machine import free_memory, this_machine
from kg_edit.planning.memory import Estimate, estimate
from kg_edit.planning.shape import shape_of
from tools.growth_models import (
    TOKENIZER,
    TYPICAL,
    large_config,
    made_up_edits,
    packaged_tokenizer,
    random_model,
    shape_by_config,
    small_config,
    small_tokenizer,
)
from tools.machine import watched_memory

Found = dict[str, Any]
SIZE_TOKENS = 2000  # of the model's own text, for one C; it is written in pieces of 8,192
_BATCH = 100  # edits of AlphaEdit's batches
_FEW = {"steps": 3, "further_steps": 0, "stop_below": -1.0, "context_starts": ("The", "I"), "context_tokens": 5}
_EDITS: Mapping[str, dict[str, Any]] = {
    "memit": _FEW,
    "alphaedit": _FEW,
    "grace": {"steps": 3, "stop_below": -1.0},
}


class Clock:
    """Processor seconds and memory of steps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.above = 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a block."""
        begin = time.process_time()
        with watched_memory() as memory:
            yield
        self.seconds[name] = time.process_time() - begin
        self.above = max(self.above, memory.peak)

    def found(self) -> Found:
        """What was measured, all steps together."""
        steps = {name: round(seconds, 3) for name, seconds in self.seconds.items()}
        return {"seconds": sum(steps.values()), "steps": steps, "peak_mb": _peak(), "above_mb": self.above}


def planned(estimated: Estimate, phases: Sequence[str], *, earlier: float = 0.0) -> Found:
    """Return the planned memory at the worst moment of some ``phases``; ``earlier``: bytes of the batches before."""
    shown = replace(estimated, parts=tuple(part for part in estimated.parts if part.phase in ("always", *phases)))
    return {
        "planned_mb": (shown.needed("main memory") + earlier) / 1e6,
        "planned_memory": {part.what: round(part.bytes / 1e6, 1) for part in shown.parts},
    }


def measure(point: Mapping[str, Any]) -> Found:
    """Measure a point: its ``curve``, its ``n``, and what else the curve has."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return _CURVES[point["curve"]](point, Path(folder))


def _size(point: Mapping[str, Any], folder: Path) -> Found:
    """One ROME edit with twelve steps, and its C."""
    config = large_config(point["model"])
    method = find_method("rome")
    settings = {"further_steps": 0, "stop_below": -1.0, "covariance": {"tokens": SIZE_TOKENS}}
    chosen = method.config_class.preset("default", settings)
    shape = shape_by_config(config, folder)
    clock = Clock()
    for dtype in (torch.float32, torch.bfloat16):
        plan = estimate(method, chosen, shape, this_machine("cpu"), dtype=dtype)
        if not plan.lacking:
            break
    else:
        free = (free_memory() or 0) / 1e9
        needed = plan.needed("main memory") / 1e9
        return {"skipped": f"{needed:.1f} GB are needed, {free:.1f} GB are free"}
    editor = method(random_model(config, packaged_tokenizer(), point["model"], dtype), chosen)
    assert isinstance(editor, ValueMethod)  # noqa: S101 - ROME
    with clock.step("contexts"):
        _ = editor.contexts
    with clock.step("C"):
        editor.prepare()
    with clock.step("edit"):
        editor.edit([TYPICAL])
    measured = clock.found()
    phases = ("measuring C", "comparing C", "factoring C", "editing")
    return {**measured, **planned(plan, phases), "n": shape.parameters, "dtype": str(dtype).removeprefix("torch.")}


def _edits(point: Mapping[str, Any], folder: Path) -> Found:
    """``n`` edits of a small model with a C that is given; AlphaEdit's batches each on the patch of those before."""
    tokenizer = small_tokenizer()
    count = int(point["n"])
    config = small_config(len(tokenizer))
    method = find_method(point["method"])
    chosen = method.config_class.preset("default", _EDITS[point["method"]])
    batch = min(count, _BATCH) if point["method"] == "alphaedit" else count
    shape = shape_by_config(config, folder)
    clock = Clock()
    editor = _on_given(method, chosen, random_model(config, tokenizer, "small", torch.float32))
    editor.prepare()
    edits = made_up_edits(count)
    patch = None
    with clock.step("edits"):
        for start in range(0, count, batch):
            patch = editor.edit(edits[start : start + batch], start=patch)
    phases = ("factoring C", "editing")
    measured = clock.found()  # before the plan's own measurements, which take memory
    plan = estimate(method, chosen, shape, this_machine("cpu"), edits=batch)
    records = next(part.bytes for part in plan.parts if part.what == "texts and records")
    return measured | planned(plan, phases, earlier=records * (count - batch) / batch)


def _on_given(method: type[EditingMethod], config: MethodConfig, model: LanguageModel) -> EditingMethod:
    """The method with a made-up C, where it needs one."""
    if not issubclass(method, ValueMethod):
        return method(model, config)
    keys = torch.randn(4096, 512, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 2, 512)
    moment = Covariance(moment=keys.T @ keys / len(keys), tokens=len(keys), ridge=1e-4, id="made up")
    assert isinstance(config, ValueConfig)  # noqa: S101 - config_class
    return method(model, config, covariances=dict.fromkeys(config.written_layers(len(model.blocks)), moment))


def _tokens(point: Mapping[str, Any], folder: Path) -> Found:
    """C of one layer of SmolLM2-135M from this repository's pages."""
    root = Path(__file__).resolve().parents[2]
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    corpus = folder / "pages.txt"
    corpus.write_text("".join(page.read_text(encoding="utf-8") for page in pages), encoding="utf-8")
    method = find_method("rome")
    clock = Clock()
    covariance = {"corpus": str(corpus), "tokens": point["n"]}
    chosen = method.config_class.preset("default", {"covariance": covariance})
    model = LanguageModel.load(TOKENIZER)
    with clock.step("C"):
        layers = chosen.written_layers(len(model.blocks))
        measure_covariances(model, layers, CovarianceConfig(**covariance), folder=folder, progress=False)
    measured = clock.found()
    plan = estimate(method, chosen, shape_of(TOKENIZER), this_machine("cpu"))
    return measured | planned(plan, ("measuring C", "comparing C"))


def _degree(point: Mapping[str, Any], folder: Path) -> Found:
    """The subgraph of an edit whose new object has ``n`` statements."""
    graph = nx.MultiDiGraph()
    clock = Clock()
    graph.add_edge("subject", "target", label="r0")
    graph.add_edges_from(("target", f"node {number}", {"label": f"r{number % 50}"}) for number in range(point["n"]))
    edit = Edit(id="edit", subject="subject", prompt="{} is in", target_new="target")
    source = PrivateGraph(graph)
    with clock.step("first"):
        subgraph = source.subgraph(edit)
    with clock.step("again"):
        source.subgraph(edit)
    seconds = clock.seconds["first"]
    return {**clock.found(), "seconds": seconds, "kept": subgraph.number_of_edges()}


_CURVES: Mapping[str, Callable[[Mapping[str, Any], Path], Found]] = {
    "size": _size,
    "edits": _edits,
    "tokens": _tokens,
    "degree": _degree,
}


def _peak() -> float:
    """The most memory that this process has held, in MB; not that of the process that started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1000 * 1.024 for line in lines if line.startswith("VmHWM:"))
