"""The sections of `bench/gpu.py`: each yields rows of its table."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kg_edit.covariance import measure
from kg_edit.covariance.corpora import TextCorpus
from kg_edit.covariance.files import Identity
from kg_edit.covariance.moment import Covariance
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.engine.fast_loss import find_engine
from kg_edit.engine.tail_forward import tail
from kg_edit.errors import ModelError
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.run import evaluate
from kg_edit.graphs.source import open_named
from kg_edit.locate_then_edit.descent import FreeDelta, Stops, descend
from kg_edit.locate_then_edit.objective import Objective, Request
from kg_edit.methods import EditingMethod, find_method
from kg_edit.methods.alphaedit.method import AlphaEdit
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.presets import list_published_models, read_presets
from kg_edit.methods.rome.method import RankOneMethod
from kg_edit.methods.value_method import ValueMethod
from kg_edit.models.devices import free_bytes, pass_megabytes
from kg_edit.models.fused_kernels import use_fused_kernels
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.loading import pick_device
from kg_edit.patches.base import Patch
from kg_edit.planning.job import Job
from kg_edit.planning.machine import Machine
from kg_edit.planning.memory import memory_parts
from kg_edit.planning.shape import shape_of_config

__all__ = ["Clock", "pick_device", "sections"]
from tools.device_profile import profiled
from tools.growth_models import made_up_edits, packaged_tokenizer, small_tokenizer
from tools.model_edits import DEMO, PENALTY
from tools.model_edits import RECORDS as CASES

Row = dict[str, Any]
REAL = "smollm2-135m"
STEPS = 20
PROFILED_STEPS = 5  # of a descent whose kernels are shown: the profiler keeps a record of each kernel
RECORDS = 60  # CounterFactPlus records of the section of the same name, with all their scores
TINY = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 1000, "max_position_embeddings": 512}
TINY_SETTINGS = {"steps": 2, "further_steps": 0, "per_node": 2}
SIZES = {"cpu": (2**24, 512), "cuda": (2**30, 8192)}  # bytes of the copy, and size of the product
PROFILE = "profile"
PROFILED = {"rome": 1, "glame": 1, "memit": 8}  # methods, and how many edits: whole ones, from keys to patch
BATCHES = {"rome": 8, "memit": 100, "alphaedit": 100, "grace": 8}  # edits of a call


@dataclass
class Clock:
    """The time limits in seconds, of the ``whole`` run and of each ``section``."""

    whole: float
    section: float
    _start: float = field(default_factory=time.monotonic)

    @contextmanager
    def limit(self) -> Iterator[None]:
        """Raise a TimeoutError in the block when its time or that of the run is over."""

        def over(_: int, __: FrameType | None) -> None:
            raise TimeoutError("the time limit")

        remaining = min(self.section, self.whole - (time.monotonic() - self._start))
        if remaining <= 0:
            raise TimeoutError("the time limit of the run")
        before = signal.signal(signal.SIGALRM, over)
        signal.setitimer(signal.ITIMER_REAL, remaining)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Limits:
    """What the device can do: bytes a second of a copy, read and written, and FLOP a second of a product."""

    bandwidth: float
    product: float


def sections(place: torch.device, shapes: Sequence[str], methods: Sequence[str], clock: Clock) -> Iterator[Row]:
    """Yield the rows of all sections, shape by shape; a section that fails yields a row with a note.

    Args:
        place: the device.
        shapes: MODEL:DTYPE each, a name of a preset or ``tiny``.
        methods: the methods whose whole edits are measured; ``profile`` shows which kernels take the time.
        clock: the time limits.
    """
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
    for shape in shapes:
        model, _, dtype = shape.partition(":")
        common = {"device": name, "torch": torch.__version__, "model": model, "dtype": dtype or "float32"}
        yield from of_shape(common, place, methods, clock)


def of_shape(common: Row, device: torch.device, methods: Sequence[str], clock: Clock) -> Iterator[Row]:
    """Yield the rows of one model shape."""
    name = common["model"]
    dtype = getattr(torch, common["dtype"])
    built = list[Shaped]()

    def build() -> Row:
        limits = measured_limits(device, dtype)
        model, absent = random_model(name, dtype, device)
        built.append(Shaped(model, name, limits))
        note = f"copy {limits.bandwidth / 1e9:.0f} GB/s, product {limits.product / 1e12:.2f} TFLOP/s{absent}"
        return {"note": note, "GB": round(built[0].weights / 1e9, 2)}

    yield from guarded("model", build, common, clock)
    if not built:  # the row says why there is no model
        return
    (shaped,) = built
    for section, work in list_work(shaped, methods):
        yield from guarded(section, work, common, clock)


def list_work(shaped: Shaped, methods: Sequence[str]) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Yield the sections of a model that is built: each with its name and the work that makes its row."""
    for edits in (1, shaped.batch):
        yield "descent", partial(shaped.descent, edits)
    yield "plain descent", shaped.plain
    for method in methods:
        if method == PROFILE:
            yield f"{PROFILE}: a descent", partial(shaped.profiled_descent, 1)
            yield f"{PROFILE}: a descent of {shaped.batch}", partial(shaped.profiled_descent, shaped.batch)
            for edited, edits in PROFILED.items():
                yield f"{PROFILE}: {edited}, {edits}", partial(shaped.profiled_edit, edited, edits)
        else:
            yield method, partial(shaped.whole, method)
    yield "covariance", shaped.covariance
    if shaped.name == REAL:
        yield "records", shaped.records


def guarded(section: str, work: Callable[[], Row], common: Row, clock: Clock) -> Iterator[Row]:
    """Yield the row of ``work``, or a row that says why there is none."""
    start = time.perf_counter()
    try:
        with clock.limit():
            yield {**common, "section": section, **work()}
    except Exception as error:  # a section that fails must not end the others
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        yield {
            **common,
            "section": section,
            "error": why,
            "note": why,
            "seconds": round(time.perf_counter() - start, 2),
        }
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # each section begins with all memory beside the model


def random_model(name: str, dtype: torch.dtype, device: torch.device) -> tuple[LanguageModel, str]:
    """A model of a published shape, with random weights that are made on the device; or the real one.

    Its tokenizer is that of the packaged model. If that is not installed, it is a small one, and the text says so.
    """
    if name == REAL:
        return LanguageModel.load(name, device=str(device), dtype=str(dtype).removeprefix("torch.")), ""
    fields: Mapping[str, Any] = TINY
    if name != "tiny":
        of_presets = {read_presets(preset).name: read_presets(preset).config for preset in list_published_models()}
        fields = of_presets[name]
    config = AutoConfig.for_model(**fields, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if device.type == "cuda":
        use_fused_kernels(model)  # as `LanguageModel.load` does
    absent = ""
    try:
        tokenizer = small_tokenizer() if name == "tiny" else packaged_tokenizer()
    except ModelError as error:
        tokenizer = small_tokenizer()
        absent = f"; with a tokenizer of {len(tokenizer)} tokens, so rows may be longer, as {error}"
    return LanguageModel.wrap(model.requires_grad_(False), tokenizer, name=name), absent


def measured_limits(device: torch.device, dtype: torch.dtype) -> Limits:
    """The best of five copies and products; a first one is not timed."""
    numbers, size = SIZES["cpu" if device.type == "cpu" else "cuda"]
    source = torch.empty(numbers, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    square = torch.ones(size, size, dtype=dtype, device=device)
    copy = min(seconds_of(lambda: target.copy_(source), device) for _ in range(6))
    product = min(seconds_of(lambda: square @ square, device) for _ in range(6))
    return Limits(bandwidth=2 * numbers / copy, product=2 * size**3 / product)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has done ``work``."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


class Shaped:
    """A random model in a published shape, and what is measured on it."""

    def __init__(self, model: LanguageModel, name: str, limits: Limits) -> None:
        self.model = model
        self.name = name
        self._limits = limits
        self.weights = sum(part.nbytes for part in model.model.parameters())
        self.batch = 2 if name == "tiny" else 32  # edits of the large descent
        # 21 contexts, as published
        self._contexts = ("{}", *(f"{edit.text}. {{}}" for edit in made_up_edits(2 if name == "tiny" else 20)))
        self._moments = dict[int, torch.Tensor]()

    def descent(self, edits: int) -> Row:
        """The descent to the values of some edits: published contexts, 20 steps, no early end."""
        model = self.model
        layer = self._layer
        requests = self._requests(edits)
        self._descend(requests, 2)  # the first steps start libraries
        short = self._descend(requests, 2)  # the second step is captured as a graph
        measured = self._costs(lambda: self._descend(requests, STEPS), edits)
        step = (measured["seconds"] - short) / (STEPS - 2)
        # Twice the weights above the edit at the speed of a copy, or their products, forward and backward.
        numbers = 0
        for block in model.blocks[layer:]:
            numbers += sum(part.numel() for part in block.parameters() if part.dim() == 2)
        head = model.model.get_output_embeddings().weight
        rows = []
        for request in requests:
            rows += [row for row in (*request.rewrites, request.essence) if row]
        tokens = sum(len(tail(row)) for row in rows)
        reads = sum(max(1, len(row.target_ids)) for row in rows)
        # A copy reads and writes, so its bytes are counted twice in the bandwidth: reading alone has all of it.
        reading = 2 * (numbers + head.numel()) * head.element_size() / self._limits.bandwidth
        computing = 4 * (numbers * tokens + head.numel() * reads) / self._limits.product
        limit = max(reading, computing)
        share = {"ms_a_step": round(1e3 * step, 2), "limit_ms": round(1e3 * limit, 2)}
        return {**measured, **share, "share_of_limit": float(f"{limit / step:.3g}"), "tokens": tokens}

    @property
    def _layer(self) -> int:
        """The layer that ROME edits."""
        return int(self._settings("rome").written_layers(len(self.model.blocks))[0])

    def _requests(self, edits: int) -> list[Request]:
        return [Request.of(self.model, edit, self._contexts) for edit in made_up_edits(edits + 1)[1:]]

    def _descend(self, requests: Sequence[Request], steps: int) -> float:
        """Seconds of the descent alone, without the pass that records the prompts."""
        engine = find_engine(self.model, self._layer, self._contexts)  # as the methods do
        loss = Objective(self.model, self._layer, requests, kl_weight=0.0625, penalty=PENALTY, engine=engine)
        delta = FreeDelta(loss.value, learning_rate=1.0, clamp_norm_factor=2.0)
        stops = Stops(steps=steps, stop_below=-1.0)
        return seconds_of(lambda: descend(loss, delta, stops), self.model.device)

    def profiled_descent(self, edits: int) -> Row:
        """The kernels of a descent of few steps, with the pass that records the prompts and the capture of a step."""
        requests = self._requests(edits)
        self._descend(requests, 2)
        work = partial(seconds_of, lambda: self._descend(requests, PROFILED_STEPS), self.model.device)
        row = profiled(work, self.model.device)
        return {"edits": edits, "steps": PROFILED_STEPS, **row, "note": f"{PROFILED_STEPS} steps: {row['note']}"}

    def profiled_edit(self, method: str, count: int) -> Row:
        """The kernels of a call that makes so many edits."""
        editor, edits = self._made(method)
        work = partial(seconds_of, lambda: editor.edit(edits[:count]), self.model.device)
        return {"edits": len(edits[:count]), **profiled(work, self.model.device)}

    def plain(self) -> Row:
        """The same descent for one edit, in which each step runs all prompts through the whole model, as published."""
        model = self.model
        requests = self._requests(1)

        def run(steps: int) -> None:
            loss = Objective(model, self._layer, requests, kl_weight=0.0625, penalty=PENALTY)
            delta = FreeDelta(loss.value, learning_rate=1.0, clamp_norm_factor=2.0)
            for _ in range(steps):
                delta.change().grad = loss.gradient(delta.change())[1]
                delta.learn()

        run(2)
        return self._costs(lambda: run(STEPS), 1)

    def covariance(self) -> Row:
        """C of one layer from 10 d_ff tokens of made-up sentences."""
        layer = self._layer
        tokens = 10 * weight_matrix(self.model.down_projection(layer)).shape[1]
        lines = [edit.text for edit in made_up_edits(10_000)]
        corpus = TextCorpus("made up", lambda: cycle(lines), max_tokens=128)
        identities = {layer: Identity(model="random", module=self.model.weight_name(layer), corpus="", tokens=tokens)}

        def measured() -> None:
            with TemporaryDirectory() as name:
                sums = measure.open_sums(self.model, identities, Path(name), ridge=1e-4)
                measure.add_text(self.model, corpus, sums, Path(name), progress=False)
                measure.write_covariances(sums, Path(name))

        return {**self._costs(measured, 1), "tokens": tokens}

    def records(self) -> Row:
        """CounterFactPlus records with all their scores before and after, by ROME; C is measured before."""
        edits = list(islice(cycle(read_edits(DEMO).edits), RECORDS))
        records = list(find_dataset("counterfact-plus")(CASES)[:RECORDS]) if CASES.exists() else edits
        rome = find_method("rome").on(self.model)
        rome.edit_each(edits[:1])
        with TemporaryDirectory() as folder, patch.dict(os.environ, KG_EDIT_CACHE=folder):  # no scores yet
            return self._costs(lambda: evaluate(rome, self.model, records, out=Path(folder) / "run"), len(records))

    def whole(self, method: str) -> Row:
        """Whole edits by a method with default settings in its published layers; C is made up, and factored before."""
        editor, edits = self._made(method)
        made = list[Patch]()
        costs = self._costs(lambda: made.append(editor.edit(edits)), len(edits))
        steps = [edit["steps"] for edit in made[0].provenance["edits"] if "steps" in edit]
        return {
            **costs,
            "steps": round(sum(steps) / len(steps), 1) if steps else None,
            "GB_planned": self._planned(type(editor), editor.config, len(edits)),
        }

    def _made(self, method: str) -> tuple[EditingMethod, list[Edit]]:
        """A method that has made its first edit, and the edits to measure."""
        chosen = find_method(method)
        config = self._settings(method)
        if method in BATCHES:
            edits = made_up_edits(BATCHES[method])
        else:
            edits = list(read_edits(DEMO).edits)
        if self.name == "tiny":
            edits = edits[:3]
        arguments: Row = {}
        if issubclass(chosen, ValueMethod):
            arguments["contexts"] = self._contexts[:6]
            layers = config.written_layers(len(self.model.blocks))
            if issubclass(chosen, RankOneMethod):
                arguments["covariance"] = self._covariance(layers[0])
            else:
                arguments["covariances"] = {layer: self._covariance(layer) for layer in layers}
        if chosen.needs_graph:
            arguments["graph"] = open_named("extract")
        editor = chosen(self.model, config, **arguments)
        if isinstance(editor, AlphaEdit):  # C's eigenvectors, once: it is the same in all layers
            first, *others = editor.layers
            editor._null_spaces.update(dict.fromkeys(others, editor.null_space(first)))
        editor.edit_each(edits[:1])  # starts libraries, and factors C
        return editor, edits

    def _planned(self, method: type[EditingMethod], config: MethodConfig, edits: int) -> float:
        """The GB above the weights that `kg-edit plan` tells for an accelerator, when C is measured already."""
        device = self.model.device
        job = Job(
            method=method,
            config=config,
            shape=shape_of_config(self.model.model.config, name=self.name),
            machine=Machine(device=torch.device("cuda"), host=None, accelerator=free_bytes(device)),
            dtype=self.model.model.dtype,
            edits=edits,
            limit_bytes=1e6 * (pass_megabytes(device) or 1000.0),
        )
        phases = Counter[str]()
        for part in memory_parts(job):
            if part.where == "accelerator" and part.what != "the model":
                phases[part.phase] += round(part.bytes)
        return round((phases["always"] + max(phases["editing"], phases["factoring C"])) / 1e9, 4)

    def _settings(self, method: str) -> Any:
        """Default settings in the layers of the shape's preset; for the tiny model few steps."""
        config = find_method(method).config_class
        settings: dict[str, Any] = {}
        if self.name == "tiny":
            settings = TINY_SETTINGS
        else:
            published = read_presets(self.name).methods
            if method in published:
                layers = ("layer", "layers")
                settings = {name: value for name, value in published[method].settings.items() if name in layers}
        known = {name: value for name, value in settings.items() if name in config.model_fields}
        return config.preset("default", known, method=method)

    def _covariance(self, layer: int) -> Covariance:
        """A made-up C of random keys: the same for all layers of one size, each with its own factor."""
        size = weight_matrix(self.model.down_projection(layer)).shape[1]
        if size not in self._moments:
            keys = torch.randn(2048, size, device=self.model.device)
            self._moments[size] = (keys.T @ keys / len(keys)).cpu()
        return Covariance(moment=self._moments[size], tokens=2048, ridge=1e-4, id="made up")

    def _costs(self, work: Callable[[], object], edits: int) -> Row:
        """Seconds, and on CUDA the most memory above the weights."""
        device = self.model.device
        gigabytes = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = seconds_of(work, device)
        if device.type == "cuda":
            gigabytes = round((torch.cuda.max_memory_allocated(device) - self.weights) / 1e9, 2)
        return {
            "edits": edits,
            "seconds": round(seconds, 3),
            "an_edit": round(seconds / edits, 4),
            "GB_above_weights": gigabytes,
        }
