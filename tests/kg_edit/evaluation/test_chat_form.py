"""Evaluation in chat form: what is asked, which metrics there are, and that runs of two forms never mix."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.errors import OutputError
from kg_edit.evaluation.case import Case, make_ceiling_cases
from kg_edit.evaluation.comparison import compare
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.metrics.edit import CHAT_METRICS, METRICS
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.scorer import score_cases
from kg_edit.evaluation.statistics import EDITING_SCORE
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from tests.kg_edit.evaluation.conftest import Nudge
from tests.kg_edit.tiny import chatting


@pytest.fixture
def chat_model() -> LanguageModel:
    return chatting()


def settings_of(out: Path) -> dict[str, object]:
    settings: dict[str, object] = json.loads((out / "run.json").read_text())
    return settings


def test_each_case_is_asked_in_its_own_form(chat_model: LanguageModel, edits: tuple[Edit, ...]) -> None:
    plain, chat, other = Case.of(edits[0]), Case.of(edits[0].with_form(chat=True)), Case.of(edits[1], chat=True)
    assert (plain.chat, chat.chat, Case.of(edits[0].with_form(chat="both")).chat) == (False, True, False)
    assert all(case.chat for case in make_ceiling_cases(chat).values())
    sections = score_cases(chat_model, [chat, plain, other])
    for section, reader, edit in zip(
        sections, (chat_model.in_chat(), chat_model, chat_model.in_chat()), (*edits[:1] * 2, edits[1]), strict=True
    ):
        pair = Pair(edit.text, "Miami Heat")
        assert section.nll[pair.prompt][pair.candidate] == pytest.approx(score(reader, [pair])[pair].nll, abs=1e-4)
    assert [set(section.scores) for section in sections[:2]] == [{*METRICS, *CHAT_METRICS}, set(METRICS)]


def test_no_first_sentence_is_expected_to_contain_a_paragraph(chat_model: LanguageModel) -> None:
    edit = Edit(prompt="Who was Ada Lovelace?", target_text="She wrote notes. They had a program.")
    (section,) = score_cases(chat_model, [Case.of(edit, chat=True)])
    assert section.scores["efficacy.first_sentence"] is None


def test_runs_of_two_forms_never_mix(chat_model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path) -> None:
    method = Nudge(chat_model)
    plain = evaluate(method, chat_model, edits[:1], out=tmp_path / "plain")
    chat = evaluate(method, chat_model, edits[:1], out=tmp_path / "chat", config=EvalConfig(chat=True))
    assert plain.base["efficacy.magnitude"] != chat.base["efficacy.magnitude"]
    assert set(chat.base) - set(plain.base) == set(CHAT_METRICS)
    assert EDITING_SCORE in chat.base
    with pytest.raises(OutputError, match="ask both in one form"):
        compare([tmp_path / "plain", tmp_path / "chat"])
    settings = settings_of(tmp_path / "chat")
    assert (settings["chat"], settings["chat_form_sha256"]) == (True, chat_model.chat_form.sha256)
    assert "chat_form_sha256" not in settings_of(tmp_path / "plain")
    for out, form in (("plain", True), ("chat", False), ("chat", None)):
        with pytest.raises(OutputError, match=r"chat:|chat_form:"):
            evaluate(method, chat_model, edits[:1], out=tmp_path / out, config=EvalConfig(chat=form))
    with pytest.raises(OutputError, match=r"chat:|records:"):
        chat_edits = [edit.with_form(chat=True) for edit in edits[:1]]
        evaluate(method, chat_model, chat_edits, out=tmp_path / "plain", config=EvalConfig(chat=False))
    changed = replace(chat_model, tokenizer=chatting().tokenizer)
    changed.tokenizer.chat_template = f"Be brief.{changed.tokenizer.chat_template}"
    with pytest.raises(OutputError, match="chat_form: other content"):
        evaluate(Nudge(changed), changed, edits[:1], out=tmp_path / "chat", config=EvalConfig(chat=True))
