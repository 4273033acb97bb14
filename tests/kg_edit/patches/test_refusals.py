"""Patches that are refused: of another model, of another shape, not finite, not to be averaged or subtracted."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from kg_edit.errors import ConfigError, OutputError, PatchError, PatchMismatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.average import average_patches
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import read_changes
from kg_edit.patches.container import FORMAT, METADATA, VERSION, write_patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.prompt_patch import PromptPatch
from kg_edit.patches.subtraction import subtract_patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.likelihood import score_each
from kg_edit.scoring.pairs import Pair
from kg_edit.ship.ledger import Ledger
from kg_edit.ship.ledger.removal import recorded_method
from tests.kg_edit.json_places import replaced
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.patches.test_average import patch as recorded
from tests.kg_edit.patches.test_base import patch_of
from tests.kg_edit.patches.test_hostile import ONE as MADE_UP
from tests.kg_edit.patches.test_hostile import forged, written
from tests.kg_edit.patches.test_prompt_patch import LAKERS
from tests.kg_edit.patches.test_prompt_patch import patch as of_facts
from tests.kg_edit.patches.test_subtraction import drawn
from tests.kg_edit.patches.test_subtraction import patch as trained
from tests.kg_edit.ship.ledger.ledgers import edits_of
from tests.kg_edit.tiny import tiny
from tests.refusals import Call, check_refused, put, refusals

PROMPT_PATCH = PromptPatch(facts=())


def apply(patch: Patch, model: LanguageModel) -> None:
    with patch.applied(model):
        pass


def of_shape(rows: int, columns: int, *, name: str = "w", number: float = 1.0) -> WeightPatch:
    """A rank-one patch of one weight."""
    return WeightPatch(factors={name: Factors(left=torch.full((rows, 1), number), right=torch.ones(columns, 1))})


def check_in_float16() -> None:
    """A cast to float16 rounds the elements that the fingerprint reads."""
    model = tiny("llama")
    patch = patch_of(model)
    patch.provenance["model"]["dtype"] = "torch.float32"  # type: ignore[index]
    half = LanguageModel.wrap(deepcopy(model.model).half(), model.tokenizer, name="tiny")
    patch.check_model(half)


def load_unknown_kind(folder: Path) -> Patch:
    fields = {"format": FORMAT, "version": VERSION, "kind": "x", "content": None, "provenance": {}}
    save_file({"w": torch.ones(1)}, folder / "p.safetensors", metadata={METADATA: json.dumps(fields)})
    return Patch.load(folder / "p.safetensors")


METADATA_FAULTS: tuple[tuple[tuple[Any, ...], Any, str], ...] = (
    (("provenance", "edits", 0, "method"), 5, "edits.0.method is 5"),
    (("provenance", "edits", 0, "edit"), ["x"], "edits.0.edit"),
    (("provenance", "edits", 0, "scale"), "2", "edits.0.scale"),
    (("provenance", "edits", 0, "batch"), 0, "edits.0.batch is 0"),
    (("provenance", "edits"), {"a": 1}, "edits is"),
    (("provenance", "model"), "toy", "model is 'toy'"),
    (("provenance", "model", "fingerprint"), 7, "model.fingerprint is 7"),
    (("provenance", "weight_norms"), {"w": None}, "weight_norms.w"),
    (("provenance",), [], "has no valid provenance"),
    (("format",), ["kg-edit-patch"], "is not a patch"),
    (("version",), 2, "install a later kg-edit"),
    ((), "[" * 10_000, "nested too deeply"),
    ((), "{", "give a complete patch.safetensors"),
)


def load_forged(
    *,
    metadata: tuple[tuple[Any, ...], Any] | None = None,
    tensors: dict[str, torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
    scale: float = 1.0,
) -> Call:
    """A file of somebody else is read: by all readers alike, and by a ledger."""

    def call(folder: Path) -> object:
        good, parts = written(MADE_UP, folder / "good.safetensors")
        fields = replaced(good, *metadata) if metadata else good
        numbers = {name: (part * scale).to(dtype or part.dtype) for name, part in parts.items()}
        path = forged(folder / "forged.safetensors", fields, numbers | (tensors or {}))
        if not tensors and scale == 1:  # which `read_changes` does not compute
            with pytest.raises(PatchError):
                read_changes(path)
        with pytest.raises(PatchError):
            Ledger.open(folder / "ledger").add(path)
        assert not (folder / "ledger").exists()
        return Patch.load(path)

    return call


def read_half_a_change(folder: Path) -> object:
    """The file has one of the two factors of a weight."""
    metadata, tensors = written(MADE_UP, folder / "good.safetensors")
    name = next(name for name in tensors if name.endswith(".right"))
    del tensors[name]
    return read_changes(forged(folder / "forged.safetensors", metadata, tensors))


def load_adapter(place: tuple[Any, ...], value: Any) -> Call:
    def call(folder: Path) -> object:
        patch = on_tiny("calinet", tiny("llama")).edit(edits_of(1))
        metadata, tensors = written(patch, folder / "good.safetensors")
        path = forged(folder / "forged.safetensors", replaced(metadata, ("content", 0, *place), value), tensors)
        return Patch.load(path)

    return call


def without_encoder(_: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "sentence_transformers", None)
        return of_facts(LAKERS, encoder="all-MiniLM-L6-v2").prompt_transform("LeBron James")


def load_facts(folder: Path, facts: object) -> Patch:
    return Patch.load(write_patch(folder / "p.safetensors", kind="prompt", provenance={}, content=facts, tensors={}))


def average_changed(field: str | None = None, *, subject: str = "Björk") -> WeightPatch:
    """An average of two patches of one edit, in one of which it lacks ``field`` or has another subject."""
    changed = recorded("rome", 1.0, "1")
    record = changed.provenance["edits"][0]
    if field:
        del record[field]
    else:
        record["edit"]["subject"] = subject
    return average_patches([recorded("rome", 1.0, "1"), changed], [0.5, 0.5])


ONE = recorded("rome", 1.0, "1")
PAIRS = [[Pair("LeBron James plays for the", "Miami Heat")]]


@refusals(
    {
        # Files
        "unknown kind": (load_unknown_kind, PatchError, "no class reads patches of the kind 'x'"),
        "path that is too long": (lambda _: Patch.load("x" * 300), PatchError, "File name too long"),
        "file in place of a folder": (
            lambda folder: patch_of(tiny("llama")).save(put(folder, "file") / "patch.safetensors"),
            OutputError,
            "can't write",
        ),
        "file of patches of different kinds": (
            lambda folder: (of_shape(1, 1) + of_facts(LAKERS)).save(folder / "patch.safetensors"),
            PatchError,
            "give the ledger itself",
        ),
        "values that are not finite": (
            lambda folder: of_shape(1, 1, number=float("nan")).save(folder / "patch.safetensors"),
            PatchError,
            "not finite",
        ),
        **{
            f"metadata: {'.'.join(map(str, place))} = {value!r:.40}": (
                load_forged(metadata=(place, value)),
                PatchError,
                word,
            )
            for place, value, word in METADATA_FAULTS
        },
        **{
            f"numbers of {dtype}": (load_forged(dtype=dtype), PatchError, "expected real numbers")
            for dtype in (torch.complex64, torch.int64, torch.bool, torch.float8_e4m3fn)
        },
        **{
            f"factor of the shape {shape}": (
                load_forged(tensors={"w.weight.left": torch.ones(shape)}),
                PatchError,
                "has factors of w.weight that don't fit",
            )
            for shape in ((), (4,), (4, 1))
        },
        **{
            f"keys of the shape {shape}": (
                load_forged(tensors={"state/key/w.weight": torch.ones(shape)}),
                PatchError,
                "does not fit; make it again",
            )
            for shape in ((), (5, 2), (6,))
        },
        "half of a change": (read_half_a_change, PatchError, "lacks a factor of w.weight"),
        "product that overflows": (load_forged(scale=1e25), PatchError, "not finite"),
        "adapter of a negative shape": (
            load_adapter(("adapter", "shape", 0), -1),
            PatchError,
            "is damaged: RuntimeError",
        ),
        "adapter of a number": (load_adapter(("method",), 3), PatchError, "no method 3"),
        "adapter of a stranger": (load_adapter(("method",), "theirs"), PatchError, "no method 'theirs' is installed"),
        "no package for an encoder": (without_encoder, ConfigError, "kg-edit[encoder]"),
        "no facts": (lambda folder: load_facts(folder, None), PatchError, "can't read the facts"),
        "facts without rules": (lambda folder: load_facts(folder, [{}]), PatchError, "can't read the facts"),
        "fact without a text": (
            lambda folder: load_facts(folder, {"rules": [{}], "facts": [[0, {"id": "1"}]]}),
            PatchError,
            "can't read the facts",
        ),
        "rule that is a number": (
            lambda folder: load_facts(folder, {"rules": [3], "facts": []}),
            PatchError,
            "can't read the facts",
        ),
        "fact without its rule": (
            lambda folder: load_facts(folder, {"rules": [], "facts": [[0, {}]]}),
            PatchError,
            "can't read the facts",
        ),
        # Models
        "another model": (
            lambda _: apply(patch_of(tiny("llama")), tiny("mistral")),
            PatchMismatchError,
            "tiny-mistral",
        ),
        "scores on another model": (
            lambda _: score_each(tiny("llama"), PAIRS, patches=[patch_of(tiny("gpt2"))]),
            PatchMismatchError,
            "tiny-gpt2",
        ),
        "facts of another model": (
            lambda _: apply(
                PromptPatch(facts=(), provenance={"model": {"name": "x", "fingerprint": "2-y"}}), tiny("llama")
            ),
            PatchMismatchError,
            "x",
        ),
        "float16": (lambda _: check_in_float16(), PatchMismatchError, "--dtype float32"),
        "another shape": (
            lambda _: apply(of_shape(3, 5, name=tiny("llama").weight_name(1)), tiny("llama")),
            PatchMismatchError,
            "the patch is for",
        ),
        "weight that the model lacks": (
            lambda _: apply(of_shape(3, 5, name="nowhere.weight"), tiny("llama")),
            PatchMismatchError,
            "has no weight",
        ),
        # Sums
        "sum over models": (
            lambda _: patch_of(tiny("llama")) + patch_of(tiny("mistral")),
            PatchMismatchError,
            "different models",
        ),
        "sum over shapes": (lambda _: of_shape(2, 3) + of_shape(2, 4), PatchMismatchError, "(2, 3) and (2, 4)"),
        "too few shares": (lambda _: average_patches([ONE, ONE], [0.5]), ConfigError, "found 2 and 1"),
        "average of one": (lambda _: average_patches([ONE], [0.5]), ConfigError, "at least two"),
        "average of the prompt": (
            lambda _: average_patches([ONE, PROMPT_PATCH], [0.5, 0.5]),
            PatchError,
            "can't be averaged",
        ),
        "average of a stack": (
            lambda _: average_patches([ONE, ONE + of_facts(LAKERS)], [0.5, 0.5]),
            PatchError,
            "is of the weights and prompt",
        ),
        "average over models": (
            lambda _: average_patches([ONE, recorded("rome", 1.0, "1", model="2-y")], [0.5, 0.5]),
            PatchMismatchError,
            "model",
        ),
        "different edits of one id": (lambda _: average_changed(), PatchError, "different edits of the id '1'"),
        "average without an edit": (lambda _: average_changed("edit"), PatchError, "lacks its edit or its method"),
        "average without a method": (lambda _: average_changed("method"), PatchError, "lacks its edit or its method"),
        "edit of an average": (
            lambda _: recorded_method(average_patches([ONE, ONE], [0.5, 0.5])),
            PatchError,
            "is an average of several",
        ),
        "anti-expert of another model": (
            lambda _: subtract_patch(trained(1, "a", model="2-x"), trained(1, "a", model="2-y")),
            PatchMismatchError,
            "train both on one model",
        ),
        "anti-expert of another shape": (
            lambda _: subtract_patch(trained(1, "a"), WeightPatch(factors={"a": drawn(4, 5, 1, 0)})),
            PatchMismatchError,
            "of a is",
        ),
        "anti-expert of the prompt": (
            lambda _: subtract_patch(trained(1, "a"), PROMPT_PATCH),
            PatchError,
            "the anti-expert is a patch of the prompt",
        ),
        "edit that the patch lacks": (lambda _: of_facts(LAKERS).without(["x"]), PatchError, "has no edit 'x'"),
        "merge of a stack": (lambda _: (ONE + of_facts(LAKERS)).merge_into(tiny("llama")), PatchError, "and prompt"),
        "merge of the prompt": (lambda _: of_facts(LAKERS).merge_into(tiny("llama")), PatchError, "can't be merged"),
    }
)
def test_mistake_is_refused(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
    assert not (tmp_path / "patch.safetensors").exists(), "nothing is written"
