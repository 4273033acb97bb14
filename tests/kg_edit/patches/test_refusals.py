"""Patches that are refused: of another model, of another shape, not finite, not to be averaged or subtracted."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import torch
from safetensors.torch import save_file

from kg_edit.errors import ConfigError, OutputError, PatchError, PatchMismatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.average import average_patches
from kg_edit.patches.base import Patch
from kg_edit.patches.container import FORMAT, METADATA, VERSION, write_patch
from kg_edit.patches.prompt_patch import PromptPatch
from kg_edit.patches.subtraction import subtract_patch
from kg_edit.patches.weight_patch import Factors, WeightPatch
from kg_edit.scoring.likelihood import score_each
from kg_edit.scoring.pairs import Pair
from kg_edit.ship.ledger.removal import recorded_method
from tests.kg_edit.patches.test_average import patch as recorded
from tests.kg_edit.patches.test_base import patch_of
from tests.kg_edit.patches.test_prompt_patch import LAKERS
from tests.kg_edit.patches.test_prompt_patch import patch as of_facts
from tests.kg_edit.patches.test_subtraction import drawn
from tests.kg_edit.patches.test_subtraction import patch as trained
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
        "values that are not finite": (
            lambda folder: of_shape(1, 1, number=float("nan")).save(folder / "patch.safetensors"),
            PatchError,
            "not finite",
        ),
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
        "merge of the prompt": (lambda _: of_facts(LAKERS).merge_into(tiny("llama")), PatchError, "can't be merged"),
    }
)
def test_mistake_is_refused(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
    assert not (tmp_path / "patch.safetensors").exists(), "nothing is written"
