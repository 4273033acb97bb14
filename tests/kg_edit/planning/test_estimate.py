"""What a plan reckons: sizes against real models, FLOP against PyTorch's counter, memory by hand; and the command."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import networkx as nx
import pytest
import torch
from transformers import AutoModelForCausalLM

from kg_edit.edits.edit import Edit
from kg_edit.engine.fast_loss import find_engine
from kg_edit.engine.prefix_store import MEGABYTES
from kg_edit.errors import UnsupportedModelError
from kg_edit.locate_then_edit.objective import Objective, Request
from kg_edit.methods import EditingMethod, MethodConfig, find_method, method_names
from kg_edit.methods.config import Family
from kg_edit.methods.fine_tuning.ft import Ft
from kg_edit.methods.glame.method import GraphValues
from kg_edit.methods.memit.method import MemitConfig
from kg_edit.methods.presets import list_published_models
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.quantised import quantised_options
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.planning import machine as machines
from kg_edit.planning import shape as shapes
from kg_edit.planning.job import count_model_bytes
from kg_edit.planning.machine import Machine, free_memory
from kg_edit.planning.memory import Estimate, estimate, suggest_ways
from kg_edit.planning.shape import ModelShape, shape_of, shape_of_config
from kg_edit.zoo.fine_tuning.lora import Lora
from kg_edit.zoo.mend.gradients import mlp_weights
from kg_edit.zoo.mend.method import MendConfig
from tests.everyday import keep_first
from tests.kg_edit.command_line import Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.methods.quick import QUICK, UNTRAINED
from tests.kg_edit.methods.refusals import POST_NORM
from tests.kg_edit.tiny import KINDS_OF_FAMILY, families, tiny

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

CPU = torch.device("cpu")
EDIT = Edit(id="lebron", subject="LeBron James", prompt="{} plays for", target_new="Miami Heat")


def small(**changes: int) -> ModelShape:
    sizes = {
        "layers": 10,
        "width": 100,
        "inner": 400,
        "vocabulary": 1000,
        "block": 10**5,
        "identities": 10**4,
        "parameters": 10**6,
    }
    return ModelShape(name="small", family="llama", **{**sizes, "cache": 2000, **changes})


def reckoned(method: str = "rome", *, host: int | None = 10**12, edits: int = 1, **settings: object) -> Estimate:
    chosen, where = find_method(method), Machine(device=CPU, host=host, accelerator=None)
    config = chosen.config_class.preset("default", settings)
    return estimate(chosen, config, small(), where, edits=edits)


def shape_in_memory(model: LanguageModel, folder: Path) -> ModelShape:
    model.model.save_pretrained(folder)
    return shape_of(str(folder))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj", "qwen2", "gpt_neox", "opt", "falcon"])
def test_sizes_are_those_of_the_model(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    shape = shape_in_memory(model, tmp_path / family)
    assert shape.parameters == sum(parameter.numel() for parameter in model.model.parameters())
    assert (shape.layers, shape.width) == (len(model.blocks), model.width)
    assert shape.inner == max(model.down_projection(0).weight.shape)
    keys = model.model(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
    held = sum(layer.keys.numel() + layer.values.numel() for layer in keys.layers)
    assert 3 * shape.cache == held


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "opt-350m"])
def test_quantised_weights_take_what_bitsandbytes_takes(family: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model = tiny(family)
    shape = shape_in_memory(model, tmp_path)
    options = quantised_options(kind, torch.float32, CPU)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, **options)
    taken = 0
    for parameter in loaded.parameters():
        scales = getattr(parameter, "SCB", None)  # int8: one a row
        if kind == "nf4" and hasattr(parameter, "quant_state"):
            scales = parameter.quant_state.absmax
        for tensor in (parameter, scales):
            if tensor is not None:
                taken += tensor.numel() * tensor.element_size()
    assert count_model_bytes(shape, torch.float32, quantised=kind) == taken


def test_quantised_weights_of_a_large_model_are_counted_by_hand() -> None:
    shape = shape_of("llama-3-8b")
    block = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    rows = 2 * 4096 + 2 * 1024 + 2 * 14336 + 4096
    embeddings = 2 * 128256 * 4096  # and the head
    norms = (2 * 32 + 1) * 4096
    assert (shape.packed, shape.packed_rows) == (32 * block, 32 * rows)
    bfloat16 = torch.bfloat16
    assert count_model_bytes(shape, bfloat16) == 2 * (32 * block + embeddings + norms) == 2 * shape.parameters
    assert count_model_bytes(shape, bfloat16, quantised="nf4") == 32 * block * 0.5625 + 2 * (embeddings + norms)
    assert count_model_bytes(shape, bfloat16, quantised="int8") == 32 * (block + 4 * rows) + 2 * (embeddings + norms)


@pytest.mark.parametrize("family", ["lfm2", "qwen3_5_text"])
def test_cache_counts_no_recurrent_block(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    shape, config = shape_in_memory(model, tmp_path / family), model.text_config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert config.layer_types.count("full_attention") == 1 and shape.layers == 4
    assert shape.cache == 2 * config.num_key_value_heads * size
    assert shape.recurrent == (("conv",) if family == "lfm2" else ("linear_attention",))


@pytest.mark.parametrize("family", families(KINDS_OF_FAMILY))
def test_plan_has_the_layers_that_are_written(family: str) -> None:
    """Tiny models have one layer around 0.2 of their depth, so the blocks are counted as thirty."""
    config = tiny(family).model.config
    shape = replace(shape_of_config(config, name=family), layers=30)
    assert shape.adds_mlp == (family not in POST_NORM)
    where = Machine(device=CPU, host=None, accelerator=None)
    written = {
        name: estimate(find_method(name), find_method(name).config_class.preset("default"), shape, where).job.layers
        for name in ("memit", "alphaedit", "pmet", "rome")
        if find_method(name).takes_recurrent or not shape.recurrent
    }
    spread, single = (4, 5, 6, 7, 8), (6,)
    joint = spread if shape.adds_mlp else single
    pmet = {} if shape.recurrent else {"pmet": spread}
    assert written == {"memit": joint, "alphaedit": joint, "rome": single} | pmet
    with nullcontext() if shape.adds_mlp else pytest.raises(UnsupportedModelError, match="give one layer, as in"):
        assert estimate(find_method("memit"), MemitConfig(layers=(2, 3)), shape, where).job.layers == (2, 3)


@pytest.mark.slow
def test_a_gguf_files_header_says_as_much_as_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = shape_of("smollm2-135m")
    monkeypatch.setattr(shapes, "list_published_models", lambda: ())
    assert shape_of("smollm2-135m") == expected


def test_no_weight_is_loaded(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    for file in tiny_folder.glob("*.safetensors"):
        assert file.stat().st_size > 0
    monkeypatch.setattr("safetensors.safe_open", None)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    assert shape_of(str(tiny_folder)).layers == 4


@pytest.mark.parametrize("method", method_names())
def test_every_method_can_be_planned(method: str) -> None:
    plan = reckoned(method, edits=10)
    assert plan.needed("main memory") > 4e6  # the model alone
    assert reckoned(method, edits=100).needed("main memory") >= plan.needed("main memory")


@pytest.mark.parametrize("method", ["memit", "rome", "alphaedit"])
def test_more_facts_than_half_the_inputs_of_a_layer_are_noted(method: str) -> None:
    """`test_more_facts_than_inputs_get_a_part_of_their_change` has the reason."""
    assert not reckoned(method, edits=200).notes
    assert "201 facts share the 400 inputs of a layer" in reckoned(method, edits=201).notes[0]
    assert not any("inputs of a layer" in note for note in reckoned("rag", edits=201).notes)


def test_memory_is_what_is_there_always_and_the_largest_phase() -> None:
    plan = reckoned(covariance={"corpus": "self"})
    parts = {part.what: part.bytes for part in plan.parts}
    assert parts["the model"] == 4 * 10**6
    assert (parts["C"], parts["factors of C"]) == (4 * 400**2, 8 * 400**2)
    assert parts["measuring C"] == 4 * 2000 * 64 * 128 + 16 * 64 * 1000 + 4 * 400**2
    # 6 rows of 4 tokens, layer 2
    assert parts["states for the backward pass"] == 4 * (6 * 4) * ((1000 + 2000) * 8 + 1000)
    # the prompt of 8 tokens in 6 rows, the contexts of 40 tokens, and their copy in the rows
    assert parts["prompts: keys, values, states"] == 4 * (2000 * (48 + 80) + 3 * 28 * 100 + 7 * 400 + 1000)
    formulas = {part.what: part.formula for part in plan.parts}
    assert formulas["prompts: keys, values, states"].startswith("48 tokens a fact, 1 fact at once within --memory;")
    assert formulas["texts and records"] == "1 fact"
    assert parts["comparing C"] == 0  # one piece of text
    assert parts["factoring C"] == 8 * 400**2
    assert parts["the patch"] == 4 * (500 + 400)  # its factors, and its key for later edits
    always = sum(part.bytes for part in plan.parts if part.phase == "always")
    assert plan.needed("main memory") == always + parts["measuring C"]
    assert plan.needed("accelerator") == 0


def test_the_prompts_of_a_batch_are_held_as_far_as_the_memory_goes() -> None:
    parts = {
        edits: next(part for part in reckoned("memit", edits=edits).parts if part.what.startswith("prompts"))
        for edits in (2, 100, 10**4, 10**5)
    }
    held = {edits: part.bytes for edits, part in parts.items()}
    contexts = 4 * 2000 * MemitConfig().workload(edits=2).context_tokens
    assert held[100] == pytest.approx(50 * held[2] - 49 * contexts)  # they are held once
    assert held[10**4] == held[10**5] == pytest.approx(1e9, rel=0.15)  # the states of the rows come on top
    assert ", 100 facts at once within --memory" in parts[100].formula
    assert parts[10**4].formula == parts[10**5].formula  # as many as fit, and not all


@pytest.mark.parametrize("edits", keep_first([12, 1, 48]))
def test_the_prompts_of_a_descent_take_the_bytes_that_are_planned(edits: int, tmp_path: Path) -> None:
    """All tensors that a descent keeps for its steps; the contexts' keys and values once, not for every edit."""
    model, config = tiny("llama"), MemitConfig()
    texts = [f"The quick brown fox jumps over {animal}" for animal in ("the dog", "Paris", "Miami", "London", "France")]
    contexts = ("{}", *(f"{text}. {{}}" for text in texts))  # as many as MEMIT's, and as long
    subjects = ("LeBron James", "Dwyane Wade", "Spike Hughes", "the Eiffel Tower", "the river Thames", "London")
    requests = [
        Request.of(model, Edit(subject=subjects[index % 6], prompt="In Paris, {} is", target_new="Rome"), contexts)
        for index in range(edits)
    ]
    where, shape = Machine(device=CPU, host=10**12, accelerator=None), shape_in_memory(model, tmp_path)
    with kept_tensors(model) as kept:
        loss = Objective(model, 2, requests, kl_weight=0.0625, engine=find_engine(model, 2, contexts))
    stored = sum(kept)
    assert len(loss.value) == edits
    plan = estimate(find_method("memit"), config, shape, where, edits=edits)
    planned = next(part.bytes for part in plan.parts if part.what.startswith("prompts"))
    assert 0.75 < planned / stored < 1.2


@pytest.mark.parametrize(("name", "edits"), [("rome", 1), ("memit", 3), ("grace", 2)])
@pytest.mark.parametrize("family", ["lfm2", "qwen3_5_text"])
def test_rows_of_a_recurrent_model_are_planned_whole(family: str, name: str, edits: int) -> None:
    model, config = tiny(family), find_method(name).config_class()
    load, shape = config.workload(edits=edits), shape_of_config(model.model.config, name=family)
    context = "Paris " * round(load.context_tokens / max(1, load.rows - 1)) + "{}"
    contexts = ("{}", *[context] * (load.rows - 1))
    edit = Edit(subject="London", prompt="{} is located in the", target_new="Miami")  # 8 tokens without the target
    requests = [Request(rewrites=Request.of(model, edit, contexts).rewrites)] * edits
    with kept_tensors(model) as kept:
        loss = Objective(model, 1, requests, kl_weight=0.0, engine=find_engine(model, 1, contexts))
    stored, ran = sum(kept), sum(row.length for row in loss._fast._rows)
    where = Machine(device=CPU, host=10**12, accelerator=None)
    parts = {part.what: part for part in estimate(find_method(name), config, shape, where, edits=edits).parts}
    planned = float(parts["states for the backward pass"].formula.partition(" tokens")[0].replace(",", ""))
    assert 0.75 < planned / ran < 1.25
    assert 0.5 < parts["prompts: keys, values, states"].bytes / stored < 1.5


@contextmanager
def kept_tensors(model: LanguageModel) -> Iterator[list[int]]:
    """A list that has, at the end of the block, the bytes of each tensor that was made in the block and still exists.

    Views of the model's weights are not among them. Python keeps objects by how often a search for garbage met them:
    what was there before is in the last generation, and what was made since is in the middle one.
    """
    sizes: list[int] = []
    gc.collect(1)
    gc.disable()
    try:
        yield sizes
        gc.collect(0)
        tensors = [thing for thing in gc.get_objects(generation=1) if isinstance(thing, torch.Tensor)]
    finally:
        gc.enable()
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    for weight in model.model.state_dict().values():
        storages.pop(weight.untyped_storage().data_ptr(), None)
    sizes.extend(storages.values())


def test_text_that_is_read_needs_a_pass_and_waiting_keys() -> None:
    parts = {part.what: part.bytes for part in reckoned(covariance={"corpus": "pages.txt", "tokens": 1000}).parts}
    assert parts["comparing C"] == 0  # one piece of text
    assert parts["measuring C"] == 4 * 512 * (400 + 1200) + 4 * 2048 * 400 + 4 * 400**2
    longer = reckoned(covariance={"corpus": "pages.txt", "tokens": 3000})
    assert next(part.bytes for part in longer.parts if part.what == "comparing C") == 30 * 400**2


def test_an_accelerators_memory_holds_the_factors_and_bounds_the_passes() -> None:
    """One ROME edit of Llama-3-8B in bfloat16 fits into 24 GB; a batch takes half of what the weights leave."""
    shape, dtype = shape_of("llama-3-8b"), torch.bfloat16

    def planned(name: str, **options: Any) -> Estimate:
        card = Machine(device=torch.device("cuda"), host=10**11, accelerator=24 * 10**9)
        return estimate(find_method(name), find_method(name).config_class(), shape, card, dtype=dtype, **options)

    rome = planned("rome")
    assert not rome.lacking
    where = {part.what: part.where for part in rome.parts}
    assert (where["C"], where["factors of C"], where["factoring C"]) == ("main memory", "accelerator", "accelerator")
    states = [
        next(part.bytes for part in plan.parts if part.what.startswith("states"))
        for plan in (planned("memit", edits=1000), planned("memit", edits=1000, limit=500.0))
    ]
    free = 24e9 - 2 * shape.parameters
    assert states == [pytest.approx(free / 2, rel=0.01), pytest.approx(500e6, rel=0.01)]


def test_grace_runs_one_token_an_edit_and_many_edits_together() -> None:
    one, many = (
        next(part.bytes for part in reckoned("grace", edits=edits).parts if part.what.startswith("states"))
        for edits in (1, 100)
    )
    assert many == 32 * one


def test_what_does_not_fit_comes_with_ways_out() -> None:
    assert not reckoned(host=10**12).lacking
    assert not reckoned(host=None).lacking
    plan = reckoned(host=10**8)
    assert plan.lacking == ("main memory",)
    text = "\n".join(suggest_ways(plan))
    assert "--dtype bfloat16" in text
    assert "GB more main memory" in text


def test_what_is_missing_is_told_for_each_memory() -> None:
    """Also what C adds: its factors are on the accelerator, and C itself in the main memory."""
    card = Machine(device=torch.device("cuda"), host=10**8, accelerator=2 * 10**9)
    method = find_method("alphaedit")
    config = method.config_class(layers=(4, 5))
    plan = estimate(method, config, small(inner=20_000, parameters=10**8), card, edits=10)
    assert plan.lacking == ("main memory", "accelerator")
    text = "\n".join(suggest_ways(plan))
    for memory in plan.lacking:
        added = plan.added_by_covariance(memory) / 1e9
        missing = (plan.needed(memory) - (plan.available(memory) or 0)) / 1e9
        assert f"{added:.1f} GB of {memory}" in text
        assert f"{missing:.1f} GB more {memory}" in text


@pytest.mark.parametrize("method", ["rome", "alphaedit"])
def test_covariance_adds_no_more_than_the_peak_has(method: str) -> None:
    """Its parts of several phases are never in memory together."""
    plan = reckoned(method, host=10**8)
    added, others = plan.added_by_covariance("main memory"), [p for p in plan.parts if not p.what.endswith("C")]
    remaining = Estimate(job=plan.job, parts=tuple(others), notes=())
    assert 0 < added == pytest.approx(plan.needed("main memory") - remaining.needed("main memory"))
    assert added + sum(part.bytes for part in others if part.phase == "always") <= plan.needed("main memory")


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 2000 kB\nMemAvailable: 1000 kB\n")
    monkeypatch.setattr(machines, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machines, "_CGROUP", tmp_path)
    assert free_memory() == 1_024_000
    (tmp_path / "memory.max").write_text("500000\n")
    (tmp_path / "memory.current").write_text("100000\n")
    assert free_memory() == 400_000
    (tmp_path / "memory.stat").write_text("anon 60000\nfile 40000\ninactive_file 30000\nactive_file 10000\n")
    assert free_memory() == 430_000  # the kernel drops inactive pages of files before a process gets no memory
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() == 1_024_000


@pytest.mark.slow
def test_the_command_says_whether_it_fits(kg_edit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "free_memory", lambda: 24 * 10**9)
    result = kg_edit("plan", "--model", "llama-3-8b", "--preset", "llama-3-8b", "--method", "rome", "--device", "cpu")
    assert result.code == 0, result.err
    assert "8,030,261,248 parameters x 4" in result.out
    assert "32.12 GB" in result.out
    assert "24.00 GB free: does not fit" in result.out
    assert "suggestion: --dtype bfloat16" in result.out
    half = kg_edit("plan", "--model", "gpt2-xl", "--preset", "gpt2-xl", "--method", "memit", "--edits", "100")
    assert "layers: 13, 14, 15, 16, 17" in half.out
    assert ": fits" in half.out
    assert kg_edit("plan", "--model", "no-such-model").code == 2
    missing = kg_edit("plan", "--model", "llama-3-8b", "--corpus", "none.txt")
    assert (missing.code, missing.out) == (2, "")
    assert "can't read the corpus none.txt: No such file or directory" in missing.err
    named = re.findall(r"[\w.-]+\w", kg_edit("plan", "--help").out)
    assert {*list_published_models()} <= {*named}


@pytest.mark.parametrize(
    "name", keep_first([name for name in method_names() if find_method(name).changed_part != "prompt"])
)
def test_the_layers_reckoned_are_those_that_are_written(name: str, smollm2: LanguageModel) -> None:
    method = find_method(name)
    config = method.config_class.preset("default", UNTRAINED.get(name, {}))
    editor = method(smollm2, config, graph=nx.MultiDiGraph() if method.needs_graph else None)
    match method.family:
        case "low-rank":
            assert isinstance(editor, Lora)
            written = tuple(sorted({int(target.split(".")[2]) for target in editor.targets}))
        case "hypernetwork":
            named = mlp_weights(smollm2, MendConfig().blocks)
            written = tuple(sorted({int(weight.split(".")[2]) for weight in named}))
        case _:
            written = getattr(editor, "layers", None) or (getattr(editor, "layer"),)  # noqa: B009 - one or several
    assert config.written_layers(len(smollm2.blocks)) == tuple(written)


def test_the_beginnings_of_questions_that_are_kept_have_a_limit() -> None:
    """70 MB after one edit of `glame-plus` (late-block), and at most the store's limit after more; ROME keeps none."""
    held = {edits: _beginnings("glame-plus", edits, "late-block") for edits in (1, 2, 1000)}
    assert held[1] == pytest.approx(70e6, rel=0.1) and held[2] == 2 * held[1]
    assert held[1000] == MEGABYTES * 2**20
    assert _beginnings("rome", 1) is None


def _beginnings(name: str, edits: int, preset: str = "default") -> float | None:
    method, machine = find_method(name), Machine(device=CPU, host=10**12, accelerator=None)
    config = method.config_class.preset(preset)
    plan = estimate(method, config, shape_of("smollm2-135m"), machine, edits=edits)
    return {part.what: part.bytes for part in plan.parts}.get("beginnings of questions")


def test_every_method_says_what_it_is() -> None:
    for name in method_names():
        method = find_method(name)
        if method.__module__.startswith("kg_edit."):  # a method of another package may have no family
            assert method.family in get_args(Family), name
        assert (method.trains == "graph network") == issubclass(method, GraphValues), name
    assert find_method("glame").family == find_method("rome").family == "rank-one"
    assert find_method("glame-batch").family == "joint"


def test_a_batch_trains_an_rgnn_for_each_fact_that_fits_into_the_memory() -> None:
    one, few, many = (
        next(part.bytes for part in reckoned("glame-batch", edits=edits).parts if part.what.startswith("trained"))
        for edits in (1, 3, 10**6)
    )
    assert few == 3 * one and 0.5e9 < many <= 1e9


def test_each_tuned_layer_has_its_trained_numbers() -> None:
    one, two = (
        next(part.bytes for part in reckoned(name, **settings).parts if part.what.startswith("trained"))
        for name, settings in (("ft-m", {}), ("ft-augmented", {"layers": (1, 2)}))
    )
    assert two == 2 * one


def test_a_step_of_many_edits_counts_the_tokens_of_its_rows() -> None:
    """All rows of a step are one pass: of the whole call, or of ``batch_size`` edits, with the texts of the step."""
    tokens = {
        "ft-augmented": 32 * 4 * 8 + 32 * 2 * 10 + 8 * 64,  # prompts of 8 tokens, contexts, texts that are held
        "ft-retrain": 32 * 8,  # with 31 earlier edits
        "locft": 8 * 8,
        "ext-sub": 8 * 8,
        "calinet": 100 * 8,
        "mend": 8,  # one gradient after the other
    }
    for name, expected in tokens.items():
        method = find_method(name)
        config = method.config_class.preset("many" if name == "ft-augmented" else "default")
        where = Machine(device=CPU, host=10**12, accelerator=None)
        plan = estimate(method, config, small(), where, edits=100)
        blocks = 10 - min(config.written_layers(10))
        states = next(part.bytes for part in plan.parts if part.what.startswith("states"))
        assert states == 4 * expected * ((1000 + 2000) * blocks + 1000), name


def test_a_large_step_is_made_smaller_by_its_batch_size() -> None:
    """Not by --memory, which limits the passes of other methods."""
    text = "\n".join(suggest_ways(reckoned("ft-augmented", host=10**6, edits=1000, batch_size=1000)))
    assert "batch_size" in text and "--memory" not in text


@pytest.mark.parametrize(("name", "settings"), [("restrained-rome", {"rect": 0.4}), ("memit", {}), ("ft-all", {})])
def test_a_patch_has_the_size_that_is_planned(name: str, settings: dict[str, float]) -> None:
    """Also the keys that it stores, and whole matrices, with the identity that is their other factor."""
    model, method = tiny("llama"), find_method(name)
    config = method.config_class.preset("default", QUICK[name] | settings)
    edits = [EDIT.model_copy(update={"id": subject, "subject": subject}) for subject in ("LeBron James", "Spike")]
    patch, shape = method(model, config).edit(edits), shape_of_config(model.model.config, name=name)
    where = Machine(device=CPU, host=10**12, accelerator=None)
    plan = estimate(method, config, shape, where, edits=len(edits))
    assert isinstance(patch, WeightPatch)
    planned = next(part.bytes for part in plan.parts if part.what == "the patch")
    assert 0.8 < planned / patch.nbytes < 1.2


def test_edits_that_are_trained_together_share_the_ranks_of_their_patch() -> None:
    patches = [
        next((part.formula, part.bytes) for part in reckoned(name, edits=3).parts if part.what == "the patch")
        for name in ("lora", "ext-sub")
    ]  # of all four projections of the attention in ten layers, d to d
    assert patches == [("rank 24, layers: 10", 4 * 24 * 200 * 40), ("rank 32, layers: 10", 4 * 32 * 200 * 40)]


class PluggedConfig(MethodConfig):
    layer: int | None = None
    steps: int = 3
    learning_rate: float = 0.1
    aim: str = "target"


class Plugged(EditingMethod):
    """A method of somebody else's that declares nothing special, whose settings have known names."""

    name = "plugged"
    about = paper = "nothing"
    config_class = PluggedConfig

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        return before


class Tuned(Ft):
    """One that is made of a family's base."""

    name = "tuned"


def test_a_method_that_declares_nothing_is_planned_and_says_so() -> None:
    where = Machine(device=CPU, host=10**12, accelerator=None)
    plan = estimate(Plugged, PluggedConfig(), small(), where)
    parts = {part.what: part.bytes for part in plan.parts}
    assert parts["the model"] == 4 * 10**6
    assert "trained numbers, and Adam" not in parts  # not taken for fine-tuning, whose settings these are
    assert "plugged declares no family" in plan.notes[0]


def test_a_method_made_of_a_familys_base_is_planned_as_one() -> None:
    config = Tuned.config_class.preset()
    where = Machine(device=CPU, host=10**12, accelerator=None)
    tuned, base = (estimate(method, config, small(), where, edits=3) for method in (Tuned, find_method("ft")))
    assert tuned.parts == base.parts


def test_plan_for_a_device_that_is_not_here(kg_edit: Run) -> None:
    plan = ("plan", "--model", "llama-3-8b", "--dtype", "bfloat16", "--method")
    result = kg_edit(*plan, "glame", "--device", "cuda:7")
    assert result.code == 0, result.err
    assert "accelerator: " in result.out and "(cuda:7 is not here, so what is free is not known)" in result.out
    assert "prompts: keys, values, states" in result.out
    assert "there is no device 'cud' here" in kg_edit(*plan, "rome", "--device", "cud").err
