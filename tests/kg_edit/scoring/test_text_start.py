"""A text that begins with a one-token edited subject gets a line break in front, where the model does not read it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import PatchStack
from kg_edit.patches.prompt_patch import PromptPatch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.generation import continuations, continue_prompts
from kg_edit.scoring.text_start import subjects_in_plain_text, with_start
from kg_edit.ship.app.session import EditDesk
from kg_edit.text.matching import begins_with
from tests.kg_edit.tiny import tiny

FOUNDED = Edit(id="g", subject="Google", prompt="{} was founded by", target_new="Steve Jobs")
PROVENANCE = {"edits": [{"edit": FOUNDED.model_dump(mode="json")}]}
PATCH = WeightPatch(factors={}, provenance=PROVENANCE)


@pytest.mark.slow
def test_auto_starts_the_texts_that_begin_with_the_subject(smollm2: LanguageModel) -> None:
    prompts = ["Google's founder is", "Who founded Google?", "\nGoogle was founded by", "Toyota was"]
    for patch in (PATCH, PatchStack((PATCH, PromptPatch(facts=())))):
        texts, remark = with_start(smollm2, prompts, patch=patch)
        assert texts == ("\nGoogle's founder is", *prompts[1:])
        assert remark and "'g'" in remark and "--start never" in remark


def test_edits_without_an_id_are_all_known() -> None:
    records = [{"edit": {"subject": subject}} for subject in ("Google", "Toyota")]
    patch = WeightPatch(factors={}, provenance={"edits": records})
    assert subjects_in_plain_text(patch) == [("", "Google"), ("", "Toyota")]


def test_never_leaves_the_text_and_names_the_ways(smollm2: LanguageModel) -> None:
    texts, remark = with_start(smollm2, ["Google's founder is"], patch=PATCH, start="never")
    assert texts == ("Google's founder is",)
    assert remark and r"$'\nGoogle\'s founder is'" in remark


def test_always_starts_every_text(smollm2: LanguageModel) -> None:
    texts, remark = with_start(smollm2, ["Toyota was"], patch=WeightPatch(factors={}), start="always")
    assert (texts, remark) == (("\nToyota was",), None)


@pytest.mark.parametrize(
    "patch",
    [
        PromptPatch(facts=(), provenance=PROVENANCE),  # the fact is in the text
        WeightPatch(factors={}, provenance={"edits": [{"edit": FOUNDED.model_dump(mode="json") | {"chat": True}}]}),
        WeightPatch(factors={}),
    ],
    ids=["prompt", "chat", "unedited"],
)
def test_other_patches_need_no_start(smollm2: LanguageModel, patch: WeightPatch | PromptPatch) -> None:
    assert with_start(smollm2, ["Google was founded by"], patch=patch) == (("Google was founded by",), None)


@pytest.mark.parametrize("bos", [False, True])
def test_model_that_reads_the_first_token_needs_no_start(bos: bool) -> None:
    patch = WeightPatch(factors={}, provenance=PROVENANCE)
    assert with_start(tiny("llama", bos=bos), ["Google was founded by"], patch=patch).remark is None


@pytest.mark.slow
def test_server_starts_texts_and_says_so_once(
    smollm2: LanguageModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As `generate` does: a completion equals that of the text after a line break."""
    method = find_method("rome").on(smollm2, settings={})
    patch = method.edit([FOUNDED])
    patch.save(tmp_path / "google.safetensors")
    desk = EditDesk(method)
    desk.models.load("google", str(tmp_path / "google.safetensors"))
    with caplog.at_level(logging.WARNING):
        answers = [desk.complete([FOUNDED.text], tokens=6, name="google") for _ in range(2)]
    desk.start = "never"
    unstarted = desk.complete([FOUNDED.text], tokens=6, name="google")
    with patch.applied(smollm2) as edited:
        assert answers == [continue_prompts(edited, ["\n" + FOUNDED.text], limits=[6])] * 2
        assert unstarted == continue_prompts(edited, [FOUNDED.text], limits=[6])
    assert caplog.text.count("a line break is put in front") == 1


def test_backslash_of_a_text_is_escaped_for_the_shell(smollm2: LanguageModel) -> None:
    _, remark = with_start(smollm2, ["Google\\new is"], patch=PATCH, start="never")
    assert remark and r"$'\nGoogle\\new is'" in remark


@pytest.mark.slow
def test_edit_is_active_in_a_text_that_begins_with_its_subject(smollm2: LanguageModel) -> None:
    patch = find_method("rome").on(smollm2, settings={}).edit([FOUNDED])
    for start, success in (("auto", True), ("never", False)):
        prompts, _ = with_start(smollm2, [FOUNDED.text], patch=patch, start=start)  # type: ignore[arg-type]
        with patch.applied(smollm2) as edited:
            (text,) = continuations(edited, prompts, limits=[6])
        assert begins_with(text, FOUNDED.target_new) == success, start
