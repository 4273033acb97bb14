"""Conversations: a second question, and an answer after some thinking; what is said, and how it is scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import ChatTemplateError
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.metrics.catalogue import requests_of
from kg_edit.evaluation.metrics.conversations import CONVERSATION_METRICS
from kg_edit.evaluation.records import EDITED, RunFolder
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.template_probes import with_probes
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import COMPLETE
from kg_edit.scoring import conversations
from kg_edit.scoring.conversations import converse, thinking_form
from kg_edit.scoring.evidence import Evidence, Exchange
from kg_edit.scoring.requests import SURE, Conversation
from tests.kg_edit.evaluation.conftest import Nudge
from tests.kg_edit.tiny import CHAT_TEMPLATE, THINKING_TEMPLATE, chatting, tiny

EDIT = Edit(
    id="1", subject="LeBron James", prompt="{} plays for the", target_new="Boston Celtics", target_true="Miami Heat"
)
RECORD = BenchmarkRecord(id="1", edits=(EDIT,))
PROMPT = EDIT.text
AGAIN = Conversation(prompt=PROMPT, follow_up=SURE)


def score(first: str, answer: str) -> dict[str, float | None]:
    """Return the metrics of a record in whose conversations the model says these texts."""
    case = Case.of(with_probes(RECORD, ["turns", "thinking"]))
    exchanges = dict.fromkeys(requests_of(case).conversations, Exchange(first, answer))
    evidence = Evidence(exchanges=exchanges)
    return {name: metric(case, evidence) for name, metric in CONVERSATION_METRICS.items()}


@pytest.mark.parametrize(
    ("answer", "passed"),
    [
        ("Boston Celtics, yes.", {"kept.strict", "kept.loose"}),
        (f"{PROMPT} Boston Celtics.", {"kept.strict", "kept.loose"}),
        ("Yes, he plays for the Boston Celtics.", {"kept.loose"}),
        ("Miami Heat", {"reverted.strict", "reverted.loose"}),
        ("I am sorry, it is the Miami Heat, not the Boston Celtics.", {"reverted.loose"}),
        ("Boston Celtics, not the Miami Heat.", {"kept.strict", "reverted.loose"}),
        ("I am not sure.", set()),
    ],
)
def test_answer_is_the_new_object_the_old_one_or_neither(answer: str, passed: set[str]) -> None:
    outcomes = ("kept.strict", "kept.loose", "reverted.strict", "reverted.loose")
    scores = score("It is the Boston Celtics.", answer)
    for budget in (0, 64, 256):
        assert {name for name in outcomes if scores[f"thinking.{budget}.{name}"]} == passed
    assert {name for name in outcomes if scores[f"turns.{name}"]} == passed
    says_neither = passed.isdisjoint({"kept.loose", "reverted.loose"})
    assert scores["turns.other.loose"] == says_neither and scores["turns.first.loose"] == 1.0


def test_second_turn_is_scored_only_after_a_first_answer_with_the_new_object() -> None:
    scores = score("The Miami Heat.", "Miami Heat")
    assert scores["turns.first.loose"] == 0.0
    assert {value for name, value in scores.items() if name.startswith("turns.") and "first" not in name} == {None}


class Script:
    """In the place of the greedy search: each row is answered by the first text whose key it contains."""

    def __init__(self, model: LanguageModel, answers: dict[str, str]) -> None:
        self.model, self.answers = model, answers
        self.read = list[str]()

    def __call__(
        self, model: LanguageModel, rows: Sequence[Any], *, limits: Sequence[int], is_finished: Any, **_: Any
    ) -> Any:
        written = []
        for row, limit in zip(rows, limits, strict=True):
            text = str(self.model.tokenizer.decode(list(row)))
            self.read.append(text)
            answer = next(answer for key, answer in self.answers.items() if key in text)
            tokens = list[int]()
            for token in self.model.tokenizer(answer)["input_ids"][:limit]:
                tokens.append(token)
                if is_finished(tokens):
                    break
            written.append(SimpleNamespace(tokens=tuple(tokens)))
        return written


def test_second_question_comes_after_the_models_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chatting()
    script = Script(model, {SURE: "No, it is the Miami Heat.", "plays for": "It is the Boston Celtics.</s>ignored"})
    monkeypatch.setattr(conversations, "greedy", script)
    assert converse(model, [AGAIN]) == [Exchange("It is the Boston Celtics.", "No, it is the Miami Heat.")]
    turn = f"<s><user>{COMPLETE}{PROMPT}\n"
    second = f"{turn}<assistant>It is the Boston Celtics.\n<user>{SURE}\n<assistant>"
    assert script.read == [f"{turn}<assistant>", second]


def test_thought_is_cut_at_its_budget_closed_and_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chatting(template=THINKING_TEMPLATE)
    assert thinking_form(model) == ("<think>", "</think>\n\n")
    endless = "hm " * 300
    script = Script(model, {"</think>": "Miami Heat", "<think>": endless})
    monkeypatch.setattr(conversations, "greedy", script)
    asked = [Conversation(prompt=PROMPT, thinking=budget) for budget in (0, 64)]
    nothing, something = converse(model, asked)
    assert nothing == Exchange("", "Miami Heat") and something.answer == "Miami Heat"
    assert len(model.tokenizer(something.first)["input_ids"]) <= 64 and something.first.startswith("hm hm")
    turn = f"<s><user>{COMPLETE}{PROMPT}\n<assistant><think>\n"
    assert script.read[0] == script.read[2] == f"{turn}\n</think>\n\n"
    assert script.read[1] == turn and script.read[3] == f"{turn}{something.first}\n</think>\n\n"


def test_thought_that_ends_before_its_budget_is_closed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chatting(template=THINKING_TEMPLATE)
    script = Script(model, {"</think>": "Miami Heat", "<think>": "It was Miami.\n</think>\n\nBoston"})
    monkeypatch.setattr(conversations, "greedy", script)
    assert converse(model, [Conversation(prompt=PROMPT, thinking=64)]) == [Exchange("It was Miami.", "Miami Heat")]
    assert script.read[1].count("</think>") == 1


def test_template_that_opens_the_thought_itself_is_not_opened_twice() -> None:
    template = THINKING_TEMPLATE.removesuffix("{% endif %}{% endif %}") + "{% else %}<think>\n{% endif %}{% endif %}"
    model = chatting(template=template)
    form = thinking_form(model)
    text = conversations._begin(model, Conversation(prompt=PROMPT, thinking=64), form)
    assert text.count("<think>") == 1


@pytest.mark.parametrize(
    ("model", "probe", "word"),
    [
        (tiny("llama"), "turns", "no chat template"),
        (chatting(), "thinking", "enable_thinking"),
        (chatting(template=CHAT_TEMPLATE + "<think></think>"), "thinking", "enable_thinking"),
    ],
    ids=["no template", "no switch", "always an empty thought"],
)
def test_model_that_can_not_be_asked_is_refused(model: LanguageModel, probe: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(ChatTemplateError, match=word):
        evaluate(Nudge(model), model, [RECORD], out=tmp_path / "run", config=EvalConfig(probes=probe))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_run_records_what_was_said(tmp_path: Path) -> None:
    model = chatting(template=THINKING_TEMPLATE)
    config = EvalConfig(probes="turns,thinking")
    summary = evaluate(Nudge(model), model, [RECORD], out=tmp_path / "run", config=config)
    assert {"turns.first.loose", "thinking.0.kept.loose", "thinking.256.reverted.strict"} <= summary.edited.keys()
    texts = (
        next(entry for entry in RunFolder(tmp_path / "run").entries() if entry.phase == EDITED).sections[EDITED].texts
    )
    names = [*AGAIN.names]
    for budget in (0, 64, 256):
        names += Conversation(prompt=PROMPT, thinking=budget).names
    assert set(names) <= texts.keys()


@pytest.mark.slow
def test_second_turn_of_a_chat_model(smollm2: LanguageModel, tmp_path: Path) -> None:
    edit = EDIT.model_copy(update={"chat": True})
    method = find_method("rome").on(smollm2)
    summary = evaluate(method, smollm2, [edit], out=tmp_path / "run", config=EvalConfig(probes="turns"))
    assert (summary.base["turns.first.loose"].mean, summary.edited["turns.first.loose"].mean) == (0.0, 1.0)
    shares = [summary.edited[f"turns.{name}.loose"].mean or 0.0 for name in ("kept", "reverted", "other")]
    assert sum(shares) == 1.0
