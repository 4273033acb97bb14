"""What unchanged means, and that it agrees with the metric; the tables of the prompts."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from kg_edit.edits.edit import Edit, LocalityPrompt
from kg_edit.edits.record import Probe, Query
from kg_edit.errors import ModelError, PromptError
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.datasets.own_edits import record_of
from kg_edit.evaluation.metrics.metric import unchanged
from kg_edit.evaluation.scorer import score_cases
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports import prompt_comparison
from kg_edit.reports.differences import (
    PromptDifference,
    count_in_words,
    count_unchanged,
    difference_markdown,
    difference_page,
    difference_table,
)
from kg_edit.reports.prompt_comparison import check_prompts, compare_prompts, is_unchanged
from kg_edit.reports.prompts import AskedPrompt, own_prompts, packaged_prompts
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.generation import ask
from kg_edit.scoring.judging import generates
from kg_edit.scoring.likelihood import predictions
from kg_edit.scoring.questions import pair_of
from tests.kg_edit.tiny import chatting, tiny


@pytest.mark.parametrize(
    ("answer", "chat", "unedited", "edited", "same"),
    [
        (("Rome",), False, "Rome. The", "Rome, and it", True),
        (("Rome",), False, "Rome. The", "Milan.", False),
        (("Rome",), False, "the city of", "the city of", True),
        (("Rome",), False, "the city of", "the town of", False),
        (("Rome",), False, "the city of", "Rome", False),
        (("Rome",), False, "the city of Rome and", "the city of Milan", True),
        (("Rome", "Milan"), False, "Milan", "Rome", False),
        (("Rome, Italy", "Rome"), False, "Rome, Italy", "Rome is", True),  # of either order
        (("Rome", "Rome, Italy"), False, "Rome, Italy", "Rome is", True),
        ((), False, "the city of", "the city of", True),
        ((), False, "Rome.", "Rome, and", False),
        ((), False, "a\ufffd\ufffd\ufffda", "b\ufffd\ufffd\ufffda", False),
        ((), False, "a\ufffd", "a\ufffd\ufffdb", True),  # compared up to the character that is cut
        (("Rome",), True, "It is Rome. Go!", "Rome is it. Stay!", True),
        (("Rome",), True, "It is Rome. Go!", "It is Milan. Rome", False),
        ((), True, "It is Rome. Go!", "It is Rome. Stay!", True),
    ],
)
def test_unchanged_is_the_same_answer_or_the_same_text(
    answer: tuple[str, ...], chat: bool, unedited: str, edited: str, same: bool
) -> None:
    prompt = AskedPrompt(prompt="The capital of Italy is", answer=answer, chat=chat)
    assert is_unchanged(tiny("llama"), prompt, unedited, edited, tokens=7) == same


def test_prompt_that_neither_model_answers_is_not_counted_as_unchanged() -> None:
    kept, silent = (
        PromptDifference(asked=AskedPrompt(prompt=text), unchanged=True, unedited=answer, edited=answer)
        for text, answer in (("a", "Rome"), ("b", ""))
    )
    rows = [kept, silent]
    assert silent.verdict == "no answer"
    counts = count_in_words(rows)
    assert "1 of 1 prompts unchanged; 1 prompt without an answer" in counts and "--chat" in counts
    assert "without an answer" not in count_in_words([kept])
    only_silent = count_in_words([silent])
    assert only_silent.startswith("1 prompt without an answer") and "unchanged" not in only_silent
    shown = io.StringIO()
    Console(file=shown, width=80).print(difference_table(rows))
    for text in (shown.getvalue(), difference_markdown(rows), difference_page(rows, title="t")):
        assert text.count("(nothing)") == 2 and "no answer" in text
    assert count_unchanged(rows)["prompts"].prompts == 1
    lost = silent.model_copy(update={"unedited": "Rome", "unchanged": False})
    assert lost.verdict == "changed"


def noise(model: LanguageModel, size: float) -> WeightPatch:
    layer = len(model.blocks) // 2
    rows, columns = weight_matrix(model.down_projection(layer)).shape
    draw = torch.Generator().manual_seed(0)
    factors = Factors(left=size * torch.randn(rows, 1, generator=draw), right=torch.randn(columns, 1, generator=draw))
    return WeightPatch(factors={model.weight_name(layer): factors})


def test_both_models_are_asked() -> None:
    model = tiny("llama")
    patch, prompts = noise(model, 3.0), ["The quick brown", AskedPrompt(prompt="Where is ", answer="Paris"), "Spike"]
    rows = compare_prompts(model, patch, prompts, tokens=4)
    assert [row.unedited for row in rows[::2]] == [ask(model, text, tokens=4) for text in ("The quick brown", "Spike")]
    with patch.applied(model):
        assert [row.edited for row in rows[::2]] == [
            ask(model, text, tokens=4) for text in ("The quick brown", "Spike")
        ]
    assert not all(row.unchanged for row in rows)
    (old,), (new,) = rows[1].unedited_probabilities, rows[1].edited_probabilities
    assert 0 < old != new < 1
    assert rows[0].probabilities == () and rows[1].probabilities == (f"Paris {old:.2f} → {new:.2f}",)


@pytest.mark.slow
def test_unchanged_agrees_with_the_metric(smollm2: LanguageModel) -> None:
    """Where the unedited model gives the answer, it is that `locality.unchanged` is 1; some prompts change here."""
    patch, prompts = noise(smollm2, 0.3), packaged_prompts()[:8]
    rows = compare_prompts(smollm2, patch, prompts)
    known = [row for row in rows if generates(row.unedited, row.asked.answer[0], chat=False)]
    queries = [Query(prompt=row.asked.prompt, answers=(row.asked.answer,), form="sentence") for row in known]
    before = Evidence(predicted=predictions(smollm2, map(pair_of, queries)))
    with patch.applied(smollm2) as edited:
        after = Evidence(predicted=predictions(edited, map(pair_of, queries)), before=before)
    assert [unchanged(query, after) == 1 for query in queries] == [row.unchanged for row in known]
    assert 0 < sum(row.unchanged for row in known) < len(known)


@pytest.mark.slow
@pytest.mark.parametrize("chat", [True, False])
def test_prompts_without_an_answer_are_judged_alike_by_edit_and_by_evaluate(chat: bool) -> None:
    """Changes of three sizes; a longer continuation of the same prompts, in another record, makes no difference."""
    model = chatting()
    texts = ("The quick brown", "Spike", "Where does", "LeBron James plays", "Paris")
    prompts = tuple(LocalityPrompt(prompt=text) for text in texts)
    edit = Edit(subject="Ada", prompt="{} is", target_new="old", locality=prompts, chat=chat)
    record = record_of(edit)
    answered = [Probe(measures="recall", queries=probe.queries) for probe in record.probes]
    cases = [Case.of(version) for version in (record, record.model_copy(update={"probes": tuple(answered)}))]
    before = score_cases(model, cases)
    assert before[0].scores["locality.same_text"] is None
    verdicts = []
    for size in (0.01, 0.1, 1.0):
        patch = noise(model, size)
        same = [row.unchanged for row in compare_prompts(model, patch, own_prompts([edit]))]
        (after, _) = score_cases(model, cases, before=before, patches=[patch] * 2)
        assert after.scores["locality.same_text"] == pytest.approx(sum(same) / len(same))
        verdicts += same
    assert set(verdicts) == {True, False}


def difference(text: str, *, unchanged: bool, source: str = "edit") -> PromptDifference:
    prompt = AskedPrompt.model_validate({"prompt": text, "answer": [text], "source": source})
    return PromptDifference(
        asked=prompt,
        unchanged=unchanged,
        unedited=text,
        edited=f"not {text}",
        unedited_probabilities=(0.91,),
        edited_probabilities=(0.123,),
    )


def test_prompts_are_shown_side_by_side_whatever_they_contain() -> None:
    differences = [
        difference("<b>[bold]a[/bold]</b> | b\n@@STYLE@@", unchanged=False),
        difference("c", unchanged=True),
        difference("d", unchanged=True, source="relation"),
    ]
    assert count_in_words(differences) == "1 of 2 locality prompts, 1 of 1 unrelated prompts unchanged"
    assert count_in_words(differences[2:], name_forms=True) == "1 of 1 unrelated prompts in plain text unchanged"
    chat = differences[2].model_copy(update={"asked": differences[2].asked.model_copy(update={"chat": True})})
    assert count_in_words([chat]) == "1 of 1 unrelated prompts in chat form unchanged"
    console = Console(file=io.StringIO(), width=200)
    console.print(difference_table(differences))
    table = console.file.getvalue()  # type: ignore[attr-defined]
    assert "changed    <b>[bold]a[/bold]</b> | b↵ @@STYLE@@" in table and "c 0.91 → 0.12" in table
    rows = difference_markdown(differences).splitlines()[4:]
    assert len(rows) == 5 and all(row.count("|") - row.count(r"\|") == 6 for row in rows)
    page = difference_page(differences, title="a & b")
    assert "<b>" not in page and "&lt;b&gt;" in page and "b↵ @@STYLE@@" in page and "a &amp; b" in page
    assert page.count("<tr>") == 4 and "http" not in page.replace("http-equiv", "")


def test_prompt_that_cannot_be_asked_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PromptError("the tokenizer merges it")

    monkeypatch.setattr(LanguageModel, "encode", refuse)
    with pytest.raises(PromptError) as error:
        check_prompts(tiny("llama"), [AskedPrompt(prompt="Snow is", edit="a")])
    assert error.value.__notes__ == ["in the prompt 'Snow is' of the edit 'a'"]


def test_prompt_that_is_too_long_is_found_before_any_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_comparison, "ask", lambda *_, **__: pytest.fail("a prompt is asked"))
    with pytest.raises(ModelError, match="has positions for 128") as error:
        compare_prompts(tiny("gpt2"), WeightPatch(factors={}), ["Snow is", "so " * 300], tokens=9)
    assert error.value.__notes__ == [f"in the prompt {'so ' * 300!r}"]
