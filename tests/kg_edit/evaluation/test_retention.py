"""GRACE's retention rates: what is asked, what counts as right, and what a broken model has."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import Query
from kg_edit.evaluation import retention as rates_of
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.finish import merge
from kg_edit.evaluation.retention import RetentionTest, edit_replies, query_of_edit, read_retention_test
from kg_edit.evaluation.run import evaluate
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.questions import pair_of
from tests.kg_edit.evaluation.conftest import Nudge, NudgeConfig
from tests.kg_edit.evaluation.datasets.rows import MQUAKE, ZSRE, written
from tests.kg_edit.evaluation.parrot import Lesson, parrot
from tests.kg_edit.tiny import chatting, tiny

FORMS = (False, True)

EDITS = tuple(
    Edit(id=str(n), subject=f"Player {n}", prompt="{} plays for", target_new=target)
    for n, target in enumerate(("Oslo", "Oslo", "Paris", "Oslo"))
)
TEST = RetentionTest(
    (
        Query(prompt="Where is the Louvre?", answers=(("Paris", "the city of Paris"),)),
        Query(prompt="The fjord is near", answers=(("Oslo",),), form="sentence"),
        Query(prompt="Where is the Tower?", answers=(("London",),)),
    )
)


@pytest.mark.slow
def test_rates_of_a_model_that_always_generates_one_name() -> None:
    """Paris before and Oslo after: one of three test prompts either way, and the one that was right is lost."""
    model = parrot("Paris", "Oslo")
    before = TEST.replies(model)
    assert [reply.right for reply in before] == [True, False, False]
    unedited = TEST.scores(model, EDITS, before=before)
    assert [unedited[f"retention.{name}"] for name in ("TRR", "ERR", "ARR")] == [1 / 3, 1 / 4, 1]
    with Lesson(model, config=NudgeConfig()).edit(EDITS).applied(model) as edited:
        after, replies = TEST.scores(edited, EDITS, before=before), TEST.replies(edited)
    assert [after[f"retention.{name}"] for name in ("TRR", "ERR", "average", "ARR")] == [1 / 3, 3 / 4, 13 / 24, 0]
    mean = sum(reply.nll for reply in replies) / 3
    assert after["retention.TRR.perplexity"] == pytest.approx(math.exp(mean))
    assert after["retention.ARR.perplexity"] == pytest.approx(math.exp(replies[0].nll)), "of the first prompt alone"
    assert TEST.scores(model, (), before=before)["retention.ERR"] is None


@pytest.mark.slow
def test_prompts_are_asked_in_the_form_of_the_run() -> None:
    """Edits in the form in which they are made, unless the run asks all prompts in one form."""
    model = chatting()
    plain, chat = EDITS[0], EDITS[1].with_form(chat=True)
    pairs = {
        form: score(model.in_chat(chat=form), [pair_of(query_of_edit(plain)), pair_of(query_of_edit(chat))])
        for form in FORMS
    }
    nll = {form: [loss.nll for loss in losses.values()] for form, losses in pairs.items()}
    for form, expected in ((None, [nll[False][0], nll[True][1]]), (True, nll[True]), (False, nll[False])):
        replies = edit_replies(model, [plain, chat], chat=form)
        assert [reply.nll for reply in replies] == pytest.approx(expected, abs=1e-4)
    before = {form: TEST.replies(model.in_chat(chat=form)) for form in FORMS}
    for form in FORMS:
        perplexity = TEST.scores(model, (), before=before[form], chat=form)["retention.TRR.perplexity"]
        assert perplexity == pytest.approx(math.exp(sum(reply.nll for reply in before[form]) / 3), rel=1e-4)
    assert before[True] != before[False]


def test_rates_of_a_model_broken_in_one_sequence() -> None:
    rates = rates_of.average_rates([{"a": 1.0, "a.perplexity": 3.0}, None], ["a", "a.perplexity"])
    assert rates == {"a": 0.5, "a.perplexity": None}


@pytest.mark.slow
def test_run_has_the_rates_at_each_point(tmp_path: Path) -> None:
    model = parrot("Paris", "Oslo")
    config = EvalConfig(schedule="sequential:2", evaluate_every=1, retention=TEST)
    summary = evaluate(Lesson(model, config=NudgeConfig()), model, EDITS, out=tmp_path / "whole", config=config)
    assert summary.curve is not None
    err = [point.retention["retention.ERR"] for point in summary.curve]
    assert err == [None, 0.5, 0.75], "of two sequences: Oslo and Paris after one edit; both, one of two after two"
    assert [point.retention["retention.TRR"] for point in summary.curve] == pytest.approx([1 / 3] * 3)
    assert summary.curve[0].general == {}
    assert len((tmp_path / "whole" / "general.jsonl").read_text().splitlines()) == 6
    parts = []
    for part in range(2):
        parts.append(tmp_path / str(part))
        shard = config.model_copy(update={"shard": f"{part}/2"})
        evaluate(Lesson(model, config=NudgeConfig()), model, EDITS, out=parts[-1], config=shard)
    assert merge(tmp_path / "merged", parts).curve == summary.curve


@pytest.mark.slow
def test_mquakes_edits_count_one_by_one(tmp_path: Path) -> None:
    """A record has two edits, "Richard Dawkins" and "Peru": a model that generates Peru retains one of the two."""
    model = parrot("Paris", "Peru")
    records = find_dataset("mquake")(written(tmp_path, MQUAKE))
    assert len(records[0].edits) == 2
    summary = evaluate(
        Lesson(model, config=NudgeConfig()),
        model,
        records,
        out=tmp_path / "run",
        config=EvalConfig(schedule="sequential:1", retention=TEST),
    )
    assert summary.curve is not None
    assert [point.retention["retention.ERR"] for point in summary.curve] == [None, 0.5]
    assert [point.retention["retention.TRR"] for point in summary.curve] == [pytest.approx(1 / 3), 0]


def test_own_edits_are_asked_as_for_their_other_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a line break, where the model does not read the subject."""
    monkeypatch.setattr("kg_edit.models.first_token.is_sink", lambda *_: True)
    model, edit = tiny("llama"), Edit(subject="A", prompt="{} plays for", target_new="Oslo")
    summary = evaluate(Nudge(model), model, edit, out=tmp_path / "run", config=EvalConfig(retention=TEST))
    assert summary.curve is not None and summary.provenance["after_line_break"]
    perplexity = summary.curve[-1].retention["retention.ERR.perplexity"]
    assert perplexity == pytest.approx(math.exp(summary.edited["efficacy.nll"].mean or 0), rel=1e-3)


def test_prompts_of_zsre_are_asked_as_questions(tmp_path: Path) -> None:
    test = read_retention_test(written(tmp_path, ZSRE))
    (query,) = test.queries
    assert (query.form, query.prompt[:4].isupper(), query.prompt.startswith("nq")) == ("question", False, False)
    assert query.prompt[0].isupper() and query.prompt.endswith("?")


def test_unreadable_row_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = {**ZSRE, "subject": ""}
    test = read_retention_test(written(tmp_path, ZSRE, broken))
    assert len(test.queries) == 1
    assert "left out, as it can't be read: " in caplog.text and "subject" in caplog.text
    read_retention_test(written(tmp_path, ZSRE, {}, {}))
    assert caplog.text.count("more)") == 1 and "(and 1 more)" in caplog.text
