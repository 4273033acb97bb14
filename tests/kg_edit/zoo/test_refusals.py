"""What the zoo's methods refuse: each row is a mistake, the class of its error, and the word that a user needs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.errors import (
    ConfigError,
    EditFileError,
    KgEditError,
    ModelError,
    PatchError,
    PatchMismatchError,
    PromptError,
)
from kg_edit.methods import find_method
from kg_edit.patches.base import Patch
from kg_edit.patches.container import write_patch
from kg_edit.zoo.grace.patch import CodebookPatch
from kg_edit.zoo.in_context import passages
from kg_edit.zoo.in_context.passages import read_passages
from kg_edit.zoo.in_context.popularity import read_popularity
from kg_edit.zoo.mello.patch import LoopPatch
from kg_edit.zoo.mend.examples import BatchOrder
from kg_edit.zoo.mend.gradients import edited_modules, mlp_weights
from kg_edit.zoo.serac.examples import ExampleOrder
from tests.everyday import keep_first
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.adapters.edits import EDITS
from tests.kg_edit.zoo.grace.test_patch import PROMPT, line, patch_for
from tests.kg_edit.zoo.mend.examples import edits
from tests.kg_edit.zoo.mend.examples import quick as mend_training
from tests.kg_edit.zoo.mend.test_propmend import PROPMEND
from tests.kg_edit.zoo.serac.test_patch import memory as serac_patch
from tests.kg_edit.zoo.serac.test_serac import quick as serac_training

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


@pytest.mark.parametrize(("name", "settings", "keyword"), SETTINGS)
def test_settings_are_refused(name: str, settings: dict[str, Any], keyword: str) -> None:
    method = find_method(name)
    with pytest.raises(ConfigError, match=keyword):
        config = method.config_class.preset("default", {**QUICK[name], **settings})
        method.check_inputs(config, None, EDITS[:1])
        method(tiny("llama"), config).edit(EDITS[:1])


SUMS = [  # (method, settings of the first patch, of the second, keyword): they can't be added
    ("melo", {"rank": 2}, {"rank": 3}, "make both with one rank"),
    ("melo", {}, {"deferral": {"radius": 2.0}}, "same radius, expand, metric and lookup"),
    ("memoir", {}, {"background_texts": 9}, "different backgrounds"),
    ("memoir", {}, {"columns": 0.5}, "same columns, threshold and seed"),
    ("memory", {}, {"slots": 7}, "same settings"),
    ("wise", {}, {"share": 0.4}, "same settings"),
]


@pytest.mark.parametrize(("name", "first", "second", "keyword"), keep_first(SUMS, keep=2, unpack=True))
def test_patches_with_other_settings_are_not_added(
    name: str, first: dict[str, Any], second: dict[str, Any], keyword: str
) -> None:
    method = find_method(name)
    one, other = (
        method.on(tiny("llama"), settings={**QUICK[name], "steps": 1, **settings}) for settings in (first, second)
    )
    patch = one.edit(EDITS[:1])
    with pytest.raises(PatchError, match=keyword):
        patch + other.edit(EDITS[1:2])
    with pytest.raises(PatchError, match=r"same|different|one rank"):
        other.edit(EDITS[1:2], start=patch)


@pytest.mark.parametrize("name", ["memory", "grace"])
def test_patch_of_another_model_is_refused_before_training(name: str) -> None:
    start = find_method("memory").on(tiny("gpt2"), settings=QUICK["memory"]).edit(EDITS[:1])
    with pytest.raises(PatchMismatchError, match="load the right model"):
        find_method(name).on(tiny("llama"), settings=QUICK[name]).edit(EDITS[1:2], start=start)


def test_missing_peft_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    lora = find_method("lora")
    with pytest.raises(ConfigError, match=r"kg-edit\[peft\]"):
        lora.on(tiny("llama")).edit(EDITS[:1])
    with pytest.raises(ConfigError, match=r"kg-edit\[peft\]"):
        lora.check_inputs(lora.config_class(), None, EDITS[:1])


def test_missing_bm25_names_the_extra_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages, "find_spec", lambda name: None)
    (tmp_path / "p.json").write_text('{"a": 1}')
    (tmp_path / "q.json").write_text('[{"title": "Rome", "text": "Rome is a city."}]')
    settings = {"popularity": str(tmp_path / "p.json"), "passages": str(tmp_path / "q.json")}
    with pytest.raises(ConfigError, match=r"kg-edit\[retrieval\]"):
        find_method("popularity-retrieval").on(tiny("llama"), settings=settings).prepare()


FILES: list[tuple[Callable[[Path], object], object, str]] = [  # (reader, content of the file, keyword)
    *((read_passages, content, "expected rows like") for content in ([], {}, [{"title": "x"}], [{"text": 3}], 4)),
    (read_passages, [{"paragraphs": "__import__('os')"}], "expected rows like"),
    (read_passages, [{"text": "… !"}, {"text": "the of a"}], "no paragraph has a word"),
    *((read_popularity, content, "no popularities") for content in ([], {}, [{"subj": "x"}], 3)),
    (read_popularity, {"Q1": 5000, "Q2": "12"}, "the text '12'"),  # it would count as unpopular
]


@pytest.mark.parametrize(("read", "content", "keyword"), FILES)
def test_files_are_refused(read: Callable[[Path], object], content: object, keyword: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(EditFileError, match=keyword):
        read(path)


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


@pytest.mark.parametrize(("kind", "content"), DAMAGED)
def test_damaged_patches_are_refused(kind: str, content: object, tmp_path: Path) -> None:
    tensors = {"w.keys": torch.ones(1, 2), "w.values": torch.ones(1, 2)} if kind == "grace" else {}
    path = write_patch(tmp_path / "p.safetensors", kind=kind, provenance={}, content=content, tensors=tensors)
    with pytest.raises(PatchError, match="is damaged"):
        Patch.load(path)


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


@pytest.mark.parametrize(("call", "error", "keyword"), [row[1:] for row in CALLS], ids=[row[0] for row in CALLS])
def test_calls_are_refused(call: Callable[[], object], error: type[KgEditError], keyword: str) -> None:
    with pytest.raises(error, match=keyword):
        call()
