"""What the zoo's methods refuse: each row is a mistake, the class of its error, and the word that a user needs."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.errors import (
    AnotherRunError,
    ConfigError,
    EditFileError,
    KgEditError,
    ModelError,
    OutputError,
    PatchError,
    PatchMismatchError,
    PromptError,
)
from kg_edit.methods import EditingMethod, find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.container import write_patch
from kg_edit.storage.locks import folder_lock
from kg_edit.zoo.grace.patch import CodebookPatch
from kg_edit.zoo.in_context import passages
from kg_edit.zoo.in_context.passages import read_passages
from kg_edit.zoo.in_context.popularity import read_popularity
from kg_edit.zoo.malmen.training import train as train_malmen
from kg_edit.zoo.mello.patch import LoopPatch
from kg_edit.zoo.melo.blocks import BlockPatch
from kg_edit.zoo.memoir.adapter import MaskSettings
from kg_edit.zoo.memory.method import MemoryNetwork
from kg_edit.zoo.mend.examples import BatchOrder
from kg_edit.zoo.mend.gradients import edited_modules, mlp_weights
from kg_edit.zoo.mend.method import Mend, MendConfig
from kg_edit.zoo.mend.network import FORMAT, MendManifest
from kg_edit.zoo.mend.training import train
from kg_edit.zoo.rledit.method import RLEdit, RLEditConfig
from kg_edit.zoo.rledit.training import train as train_rledit
from kg_edit.zoo.serac.examples import ExampleOrder
from kg_edit.zoo.trained.files import NETWORK
from kg_edit.zoo.trained.training import CHECKPOINT, DivergedError
from kg_edit.zoo.wise.adapter import SideMemory
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.tiny import byte_level, tiny
from tests.kg_edit.zoo.adapters.edits import EDITS, adapter_of
from tests.kg_edit.zoo.grace.test_patch import PROMPT, line, patch_for
from tests.kg_edit.zoo.malmen.examples import apart, quick_sequence
from tests.kg_edit.zoo.malmen.examples import quick as malmen_training
from tests.kg_edit.zoo.memoir.test_residual_memory import memory as masks
from tests.kg_edit.zoo.mend.examples import edits
from tests.kg_edit.zoo.mend.examples import quick as mend_training
from tests.kg_edit.zoo.mend.test_propmend import PROPMEND
from tests.kg_edit.zoo.serac.test_patch import memory as serac_patch
from tests.kg_edit.zoo.serac.test_serac import quick as serac_training
from tests.kg_edit.zoo.wise.test_side_memory import memory as side_memory
from tests.refusals import Call, check_refused, put, refusals

SETTINGS = [  # (method, its settings, keyword): refused before anything is computed
    ("adalora", {"rank": 9}, "rank=9 is larger than initial_rank=3"),
    ("adalora", {"steps": 2, "warm_up": 1}, "leave none"),
    ("adalora", {"steps": 2, "warm_up": 0, "final": 0, "initial_rank": 3}, "leave none"),
    ("adalora", {"initial_rank": 64, "rank": 64}, "at most 32"),
    ("ft-augmented", {"context_tokens": 1}, "context_tokens"),
    ("ike", {"source": "file"}, "set demonstrations"),
    ("ike", {"source": "patch", "demonstrations": "facts.json"}, "unset one of the two"),
    ("ike", {"ratio": (0, 0, 0)}, "count=0"),
    ("mello", {"most": 2}, "most"),
    ("mello", {"shots": 5}, "shots"),
    ("mello", {"steps": 0}, "steps"),
    ("memoe", {"top": 5}, "smaller top"),
    ("popularity-retrieval", {}, "--set popularity=FILE"),
    ("serac", {"untrained": False}, "kg-edit serac train"),
    ("serac", {"network": "folder"}, "exactly one of the two"),
]


def with_settings(name: str, settings: dict[str, Any]) -> Call:
    """A method with these settings is checked, and makes an edit."""

    def call(_: Path) -> object:
        method = find_method(name)
        config = method.config_class.preset("default", {**QUICK[name], **settings})
        method.check_inputs(config, None, EDITS[:1])
        return method(tiny("llama"), config).edit(EDITS[:1])

    return call


SUMS = [  # (method, settings of the first patch, of the second, keyword): they can't be added
    ("melo", {"rank": 2}, {"rank": 3}, "make both with one rank"),
    ("melo", {}, {"deferral": {"radius": 2.0}}, "same radius, expand, metric and lookup"),
    ("memoir", {}, {"background_texts": 9}, "different backgrounds"),
    ("memoir", {}, {"columns": 0.5}, "same columns, threshold and seed"),
    ("memory", {}, {"slots": 7}, "same settings"),
    ("wise", {}, {"share": 0.4}, "same settings"),
]


def with_both(name: str, first: dict[str, Any], second: dict[str, Any], *, later: bool = False) -> Call:
    """Patches of two settings are added, or the later one is made on top of the first."""

    def call(_: Path) -> object:
        settings = [{**QUICK[name], "steps": 1, **changes} for changes in (first, second)]
        one, other = (find_method(name).on(tiny("llama"), settings=each) for each in settings)
        patch = one.edit(EDITS[:1])
        return other.edit(EDITS[1:2], start=patch) if later else patch + other.edit(EDITS[1:2])

    return call


def on_the_patch_of_another_model(name: str) -> Call:
    def call(_: Path) -> object:
        start = find_method("memory").on(tiny("gpt2"), settings=QUICK["memory"]).edit(EDITS[:1])
        return find_method(name).on(tiny("llama"), settings=QUICK[name]).edit(EDITS[1:2], start=start)

    return call


def without_peft(make: Callable[[type[EditingMethod]], object]) -> Call:
    """LoRA where the package peft is not installed."""

    def call(_: Path) -> object:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "peft", None)
            return make(find_method("lora"))

    return call


def without_bm25(folder: Path) -> object:
    popularity = put(folder, "p.json", '{"a": 1}')
    texts = put(folder, "q.json", '[{"title": "Rome", "text": "Rome is a city."}]')
    settings = {"popularity": str(popularity), "passages": str(texts)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passages, "find_spec", lambda name: None)
        find_method("popularity-retrieval").on(tiny("llama"), settings=settings).prepare()
    return None


FILES: list[tuple[Callable[[Path], object], object, str]] = [  # (reader, content of the file, keyword)
    *((read_passages, content, "expected rows like") for content in ([], {}, [{"title": "x"}], [{"text": 3}], 4)),
    (read_passages, [{"paragraphs": "__import__('os')"}], "expected rows like"),
    (read_passages, [{"text": "… !"}, {"text": "the of a"}], "no paragraph has a word"),
    *((read_popularity, content, "no popularities") for content in ([], {}, [{"subj": "x"}], 3)),
    (read_popularity, {"Q1": 5000, "Q2": "12"}, "the text '12'"),  # it would count as unpopular
]


def with_content(read: Callable[[Path], object], content: object) -> Call:
    return lambda folder: read(put(folder, "file.json", json.dumps(content)))


MASKS = masks([0, 1])
SIDE = side_memory([[1.0, 0.0], [0.0, 2.0]], owners=[0], activations=[8.0])
_BOOK = {"labels": ["a", "b"], "ids": ["1", "2"], "deferral": {}}
DAMAGED = [  # (kind of the patch, its content): without the tensors that belong to it
    ("adapters", None),
    ("adapters", [{}]),
    ("adapters", [{"method": "rome", "weight": "w", "adapter": {}}]),  # a method without adapters
    ("adapters", [{"method": "memory", "weight": "w", "adapter": {"shape": [2, 3], "settings": {"slots": 0}}}]),
    ("adapters", [{"method": "t-patcher", "weight": "w", "adapter": {"shape": [2, 3]}}]),
    ("grace", None),
    ("grace", {"w": _BOOK}),
    ("grace", {"v": _BOOK}),
    ("grace", {"w": {**_BOOK, "labels": "a"}}),
]


def damaged(kind: str, content: object) -> Call:
    """A file of a patch is read, without the tensors that belong to it."""
    tensors = {"w.keys": torch.ones(1, 2), "w.values": torch.ones(1, 2)} if kind == "grace" else {}
    return lambda folder: Patch.load(
        write_patch(folder / "p.safetensors", kind=kind, provenance={}, content=content, tensors=tensors)
    )


def damaged_blocks(folder: Path) -> object:
    """The tensors of MELO's blocks have an axis too few."""
    patch = find_method("melo").on(tiny("llama"), settings={**QUICK["melo"], "steps": 1}).edit(EDITS[:1])
    assert isinstance(patch, BlockPatch)
    content, tensors = patch._stored()
    flat = {name: tensor.flatten(1) for name, tensor in tensors.items()}
    path = folder / "flat.safetensors"
    write_patch(path, kind="melo", provenance=patch.provenance, content=content, tensors=flat)
    return Patch.load(path)


def damaged_facts(folder: Path) -> object:
    intact = serac_patch()
    broken = replace(intact, facts=(replace(intact.facts[0], weights=torch.ones(1, 1)),))
    return Patch.load(broken.save(folder / "patch.safetensors"))


def read_again(adapter: Any, **changes: Tensor) -> Call:
    """What an adapter stores is read again, with some of its tensors changed."""
    return lambda _: adapter.read(adapter.metadata(), {**adapter.tensors(), **changes})


def memory_read_again(_: Path) -> object:
    patch = find_method("memory").on(tiny("llama"), settings={**QUICK["memory"], "steps": 1}).edit(EDITS[:1])
    adapter = adapter_of(patch, MemoryNetwork)
    return MemoryNetwork.read(adapter.metadata(), {**adapter.tensors(), "keys": torch.zeros(3, 3)})


def shards_without_owners(_: Path) -> object:
    tensors = {**SIDE.tensors(), "owners": torch.zeros(0), "activations": torch.zeros(0)}
    del tensors["shard/0"]
    return SideMemory.read(SIDE.metadata(), tensors)


def trained(*, out: str = "new", **settings: Any) -> Call:
    """MEND's network is trained; a mistake in the settings leaves no folder."""
    return lambda folder: train(tiny("llama"), edits(), mend_training(**settings), folder / out, progress=False)


def trained_again(change: Callable[[Path], LanguageModel | None], **settings: Any) -> Call:
    """A finished training of one step is started again after a change."""

    def call(folder: Path) -> object:
        train(tiny("llama"), edits(), mend_training(steps=1), folder, progress=False, checkpoint_seconds=0.0)
        model = change(folder) or tiny("llama")
        return train(model, edits(), mend_training(**{"steps": 1, **settings}), folder, progress=False)

    return call


def half_precision(_: Path) -> LanguageModel:
    exact = tiny("llama")
    return LanguageModel.wrap(copy.deepcopy(exact.model).to(torch.bfloat16), exact.tokenizer, name=exact.name)


def damage_the_checkpoint(folder: Path) -> None:
    (folder / NETWORK).unlink()
    put(folder, CHECKPOINT, "no tensors")


def at_once(folder: Path) -> object:
    with folder_lock(folder):
        return train(tiny("llama"), edits(), mend_training(steps=1), folder, progress=False)


def of_a_later_version(folder: Path) -> object:
    metadata = json.dumps({"version": 2, "manifest": {}})
    save_file({"a": torch.zeros(1)}, folder / NETWORK, {FORMAT.key: metadata})
    return FORMAT.read_manifest(folder / NETWORK, MendManifest)


def of_no_tensors(folder: Path) -> object:
    put(folder, NETWORK, "half")
    return Mend.check_inputs(MendConfig(network=str(folder)), None, EDITS[:1])


def of_another_method(folder: Path) -> object:
    train_malmen(tiny("llama"), apart(), malmen_training(steps=1), folder, progress=False)
    return RLEdit.check_inputs(RLEditConfig(network=str(folder)), None, EDITS[:1])


def of_another_model(folder: Path) -> object:
    train(tiny("llama"), edits(), mend_training(steps=1), folder, progress=False)
    return find_method("mend").on(tiny("mistral"), settings={"network": str(folder)}).prepare()  # type: ignore[func-returns-value]


def with_foreign_adapters(_: Path) -> object:
    model = LanguageModel.wrap(copy.deepcopy(tiny("llama").model), tiny("llama").tokenizer, name="adapted")
    model.model.peft_config = {}  # type: ignore[assignment]
    return find_method("lora").on(model, settings=QUICK["lora"]).edit(EDITS[:1])


def without_an_end_of_text(_: Path) -> object:
    tokenizer = byte_level()
    tokenizer.eos_token = None
    model = LanguageModel.wrap(tiny("llama").model, tokenizer, name="endless")
    return on_tiny("locft", model).check(EDITS)  # type: ignore[func-returns-value]


def of_one_token_without_texts(_: Path) -> object:
    """One feature has no deviation: all is 0, and the edit would do nothing."""
    model, words = tiny("llama"), ("Rome", "Oslo", "Paris", "a")
    edit = EDITS[0]
    short = [word for word in words if len(model.encode(edit.text, target=word).target_ids) == 1]
    return on_tiny("ultraedit", statistics="weight", texts=0).edit([edit.model_copy(update={"target_new": short[0]})])


def _codebooks(**books: Any) -> CodebookPatch:
    return CodebookPatch(codebooks=books)


def _apply(patch: Patch, family: str) -> None:
    with patch.applied(tiny(family)):
        pass


def _serac_of_another_network() -> Patch:
    return replace(serac_patch(), rule=serac_patch().rule.model_copy(update={"network": "another"}))


def _edit_weight(name: str) -> object:
    return edited_modules(tiny("llama"), [name])


_LONG = Edit(id="1", subject="France", prompt="{} " + "is " * 150, target_new="Rome")
_NO_OLD_TARGET = Edit(id="1", subject="France", prompt="The capital of {} is", target_new="Rome")
CALLS: list[tuple[str, Callable[[], object], type[KgEditError], str]] = [  # (what is wrong, call, error, keyword)
    ("another model", lambda: _apply(patch_for(tiny("llama"), PROMPT), "mistral"), PatchMismatchError, "patch is for"),
    (
        "a weight of another shape",
        lambda: _apply(CodebookPatch(codebooks={tiny("llama").weight_name(1): line((0, "a"))}), "llama"),
        PatchMismatchError,
        "the patch is for",
    ),
    ("no such weight", lambda: _apply(_codebooks(x=line((0, "a"))), "llama"), PatchMismatchError, "has no weight"),
    (
        "a codebook in the weights",
        lambda: patch_for(tiny("llama"), PROMPT).merge_into(tiny("llama")),
        PatchError,
        "can't be merged",
    ),
    (
        "other rules",
        lambda: _codebooks(x=line((0, "a"))) + _codebooks(x=line((0, "a"), radius=2.0)),
        PatchError,
        "different rules",
    ),
    ("not a number", lambda: _codebooks(x=line((float("nan"), "a"))).check_finite(), PatchError, "not finite"),
    ("another network", lambda: serac_patch() + _serac_of_another_network(), PatchError, "same trained network"),
    ("a loop without a model", lambda: LoopPatch(facts=()).prompt_transform("Who?"), PatchError, "needs the model"),
    ("no old answer", lambda: find_method("kn").on(tiny("llama")).check([_NO_OLD_TARGET]), PromptError, "target_true"),
    (
        "a fact that does not fit",
        lambda: find_method("serac").on(tiny("gpt2"), settings={"untrained": True}).check([_LONG]),
        ModelError,
        "positions",
    ),
    ("a block too high", lambda: _edit_weight("model.layers.9.mlp.up_proj.weight"), ConfigError, "layers.3.mlp.down"),
    ("a weight in no block", lambda: _edit_weight("lm_head.weight"), ConfigError, "layers.3.mlp.down"),
    ("no weight at all", lambda: _edit_weight("model.layers.1.mlp"), ConfigError, "layers.3.mlp.down"),
    ("too many blocks", lambda: mlp_weights(tiny("llama"), 5), ConfigError, "from 1 to 4"),
    (
        "no questions",
        lambda: BatchOrder.of(tiny("llama"), edits(), mend_training(**PROPMEND)),
        ConfigError,
        "portability question",
    ),
    (
        "too few edits",
        lambda: ExampleOrder.of(tiny("llama"), edits()[:7], serac_training()),
        ConfigError,
        "found 7 edits, expected at least 8",
    ),
]


Row = tuple[Call, type[Exception], str]
MORE: dict[str, Row] = {
    "memory: later edit with other settings": (
        with_both("memory", {}, {"slots": 7}, later=True),
        PatchError,
        "make later edits with the same settings",
    ),
    "memory: on the patch of another model": (
        on_the_patch_of_another_model("memory"),
        PatchMismatchError,
        "load the right model",
    ),
    "grace: on the patch of another model": (
        on_the_patch_of_another_model("grace"),
        PatchMismatchError,
        "load the right model",
    ),
    "lora: no peft": (
        without_peft(lambda lora: lora.on(tiny("llama")).edit(EDITS[:1])),
        ConfigError,
        "kg-edit[peft]",
    ),
    "lora: no peft, before a model is loaded": (
        without_peft(lambda lora: lora.check_inputs(lora.config_class(), None, EDITS[:1])),  # type: ignore[func-returns-value]
        ConfigError,
        "kg-edit[peft]",
    ),
    "popularity-retrieval: no BM25": (without_bm25, ConfigError, "kg-edit[retrieval]"),
    "lora: model with adapters": (with_foreign_adapters, ConfigError, "merge and unload"),
    "locft: no end of text": (without_an_end_of_text, PromptError, "set end=false"),
    # Damaged files
    "melo: tensors with other axes": (damaged_blocks, PatchError, "axes; make the patch again"),
    "serac: tensors of another size": (damaged_facts, PatchError, "is damaged"),
    "memory: tensors of other settings": (memory_read_again, ValueError, "its settings ask for tensors"),
    "memoir: masks of another length": (read_again(MASKS, masks=torch.zeros(1, 3)), ValueError, "mask"),
    "memoir: columns beyond the last": (read_again(MASKS, masks=torch.tensor([[0.0, 6.0]])), ValueError, "mask"),
    "memoir: background of another length": (read_again(MASKS, background=torch.zeros(5)), ValueError, "mask"),
    "memoir: other settings": (
        lambda _: MASKS.plus(masks([2, 3], settings=MaskSettings(columns=1 / 3, threshold=0.5, seed=0))),
        PatchError,
        "make both with the same columns, threshold and seed",
    ),
    "wise: owners of another length": (read_again(SIDE, owners=torch.tensor([1.0])), ValueError, "don't fit"),
    "wise: owner that is no number of a shard": (read_again(SIDE, owners=torch.tensor([0.5])), ValueError, "don't fit"),
    "wise: activations of another length": (read_again(SIDE, activations=torch.ones(2)), ValueError, "don't fit"),
    "wise: shard of another size": (read_again(SIDE, **{"shard/0": torch.zeros(2, 3)}), ValueError, "not a change"),
    "wise: no shard": (shards_without_owners, ValueError, "don't fit"),
    # Trained networks
    "mend: too few edits": (trained(validation=30), ConfigError, "found 18 usable edits, expected at least 38"),
    "mend: steps that are too large": (
        trained(out="diverged", edit_lr=1e12, rate_learning_rate=100.0),
        DivergedError,
        "the loss is not finite; train with a lower",
    ),
    "mend: folder of another training": (trained_again(lambda _: None, steps=2), AnotherRunError, "training.steps"),
    "mend: another precision": (trained_again(half_precision), AnotherRunError, "model.dtype"),
    "mend: damaged checkpoint": (trained_again(damage_the_checkpoint), ModelError, "checkpoint.safetensors is damaged"),
    "mend: folder of another process": (at_once, OutputError, "another process"),
    "mend: network of a later version": (of_a_later_version, ModelError, "update kg-edit"),
    "mend: damaged network": (of_no_tensors, ModelError, "is damaged"),
    "mend: network of another model": (of_another_model, PatchMismatchError, "train one for this model"),
    "rledit: network of another method": (of_another_method, ModelError, "kg-edit rledit train"),
    "rledit: too few edits": (
        lambda folder: train_rledit(tiny("llama"), apart(), quick_sequence(length=8), folder / "new", progress=False),
        ConfigError,
        "a step uses 16",
    ),
    # Values
    "comeba: remember": (with_settings("comeba", {"remember": 0.0}), ConfigError, "remember"),
    "restrained-rome: prune": (with_settings("restrained-rome", {"prune": 0.5}), ConfigError, "larger than 1, or 0"),
    "restrained-memit: prune": (with_settings("restrained-memit", {"prune": 0.5}), ConfigError, "larger than 1, or 0"),
    "lora: module of another family": (with_settings("lora", {"modules": ["c_attn"]}), ConfigError, "no projection"),
    "ultraedit: weight in no block": (
        lambda _: find_method("ultraedit").on(tiny("llama"), settings={"weights": ["lm_head.weight"]}),
        ConfigError,
        "'lm_head.weight' is in no block",
    ),
    "ultraedit: weight of no module": (
        lambda _: find_method("ultraedit").on(
            tiny("llama"), settings={"weights": ["model.layers.1.mlp.no_proj.weight"]}
        ),
        ConfigError,
        "is not the weight of a linear module",
    ),
    "ultraedit: one token without texts": (of_one_token_without_texts, ConfigError, "--set texts=32"),
    "ike: no such file": (with_settings("ike", {"demonstrations": "nowhere.json"}), EditFileError, "no such file"),
    "definition: no descriptions": (with_settings("definition", {"insert": "definition"}), ConfigError, "descriptions"),
    "definition: no graph for both": (with_settings("definition", {"insert": "both"}), ConfigError, "descriptions"),
    "definition: random without others": (with_settings("definition", {"insert": "random"}), ConfigError, "set both"),
    **{
        f"{name}: no network": (
            lambda _, name=name: find_method(name).check_inputs(  # type: ignore[func-returns-value]
                find_method(name).config_class.preset("default"), None, ()
            ),
            ConfigError,
            f"kg-edit {name} train",
        )
        for name in ("ke", "malmen", "mend", "rledit", "serac")
    },
    **{
        f"{name}: folder without a network": (
            lambda folder, name=name: find_method(name).check_inputs(  # type: ignore[func-returns-value]
                find_method(name).config_class.preset("default", {"network": str(folder)}), None, ()
            ),
            ModelError,
            f"kg-edit {name} train",
        )
        for name in ("ke", "malmen", "mend", "rledit", "serac")
    },
}


@refusals(
    {
        **{f"{name}: {change}": (with_settings(name, change), ConfigError, word) for name, change, word in SETTINGS},
        **{f"{name}: {one} + {two}": (with_both(name, one, two), PatchError, word) for name, one, two, word in SUMS},
        **{
            f"{read.__name__}: {content}": (with_content(read, content), EditFileError, word)
            for read, content, word in FILES
        },
        **{f"{kind}: {content}": (damaged(kind, content), PatchError, "is damaged") for kind, content in DAMAGED},
        **{mistake: (lambda _, call=call: call(), error, word) for mistake, call, error, word in CALLS},
        **MORE,
    }
)
def test_mistake_is_refused(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
    assert not (tmp_path / "new").exists(), "a refused training makes no folder"
