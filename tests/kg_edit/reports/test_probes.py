"""The probes of an edit, their readings on the unedited and the edited model, and what counts as success."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from kg_edit.edits.edit import Edit, LocalityPrompt, Question
from kg_edit.errors import ModelError, PromptError
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.datasets.own_edits import record_of
from kg_edit.evaluation.scorer import score_cases
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.probes import before_and_after, check_probes, probes, read
from kg_edit.reports.rows import Reading, ReportProbe
from kg_edit.scoring import asking
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair, TokenScores
from kg_edit.scoring.questions import format_question_with_shots
from tests.everyday import keep_first
from tests.kg_edit.evaluation.parrot import Lesson, parrot
from tests.kg_edit.tiny import CHAT_TEMPLATE, tiny

EDIT = Edit(
    id="1",
    subject="LeBron James",
    prompt="{} plays for",
    target_new="Los Angeles Lakers",
    target_true="Miami Heat",
    paraphrases=("LeBron James is on the team of ",),
    neighborhood=("Dwyane Wade plays for", "Spike Hughes plays for"),
    portability=(Question(question="Where is his team?", answer="Los Angeles", aliases=("LA",)),),
)
BARE = Edit(id="2", subject="France", prompt="In {}, the capital is", target_new="Rome", neighborhood=("In Spain,",))


def patch_of(model: LanguageModel, *, size: float = 1.0) -> Patch:
    rows, columns = weight_matrix(model.down_projection(1)).shape
    factors = Factors(left=size * torch.ones(rows, 1), right=torch.ones(columns, 1))
    return WeightPatch(factors={model.weight_name(1): factors}, provenance={"edits": []})


def test_probes_are_of_every_field_of_an_edit() -> None:
    kinds = [probe.kind for probe in probes(tiny("llama"), EDIT)]
    assert kinds == ["rewrite", "paraphrase", "portability", "locality", "locality"]
    rewrite, paraphrase, question, locality, _ = probes(tiny("llama"), EDIT)
    assert (rewrite.prompt, rewrite.wanted, rewrite.unwanted) == (EDIT.text, "Los Angeles Lakers", "Miami Heat")
    assert paraphrase.score == "LeBron James is on the team of"  # a space at the end would change the target's tokens
    assert question.ask == format_question_with_shots("Where is his team?")
    assert (locality.wanted, locality.unwanted) == ("Miami Heat", "Los Angeles Lakers")


def test_probes_without_an_old_target_have_no_locality() -> None:
    assert [probe.kind for probe in probes(tiny("llama"), BARE)] == ["rewrite"]


@pytest.mark.slow
def test_before_and_after_asks_both_models() -> None:
    model = tiny("llama")
    patch = patch_of(model)
    rows = before_and_after(model, patch, [EDIT, BARE])
    assert [row.edit for row in rows] == ["1"] * 5 + ["2"]
    assert tuple(row.unedited for row in rows[:5]) == read(model, probes(tiny("llama"), EDIT))
    with patch.applied(model):
        assert tuple(row.edited for row in rows[:5]) == read(model, probes(tiny("llama"), EDIT))
    assert rows[0].unedited.nats != rows[0].edited.nats
    frame = rows.to_frame()
    assert list(frame["kind"]) == ["rewrite", "paraphrase", "portability", "locality", "locality", "rewrite"]
    assert list(frame["edited nats"]) == [row.edited.nats for row in rows]
    assert repr(rows) == "BeforeAfter(6 prompts: 0 of 2 edits succeeded)"
    assert (
        before_and_after(model, patch, {"subject": "Al", "prompt": "{} is in", "target_new": "Rome"})[0].probe.kind
        == "rewrite"
    )
    assert rows._repr_markdown_().count("\n") == len(rows) + 1


def test_right_compares_with_the_other_target() -> None:
    model = tiny("llama")
    reading = read(model, probes(tiny("llama"), EDIT))[0]
    new, old = Pair(EDIT.text, "Los Angeles Lakers"), Pair(EDIT.text, "Miami Heat")
    losses = score(model, [new, old])
    assert reading.nats == round(losses[new].nll, 4)
    totals = [losses[pair].nll * len(model.encode(EDIT.text, target=pair.candidate).target_ids) for pair in (new, old)]
    assert reading.right == (totals[0] < totals[1])


def judged(probe: ReportProbe, text: str, *, nats: Mapping[str, float] | None = None, tokens: int = 1) -> Reading:
    """Return the reading of a model that writes ``text``, to which the answers cost ``nats`` a token."""
    cost = nats or {}
    scores = {
        pair: TokenScores(nll=cost.get(pair.candidate, 1.0), accuracy=0.0, tokens=tokens * len(pair.candidate.split()))
        for pair in probe.requests.pairs
    }
    return Reading.of(probe, Evidence(texts={probe.ask: text}, scores=scores))


def test_right_compares_whole_targets_of_different_lengths() -> None:
    """The longer target is cheaper a token, and dearer as a whole."""
    nats = {"Rome": 2.0, "Los Angeles, California, United States": 1.9}
    for new, old, right in ((*nats, True), (*reversed(nats), False)):
        (probe,) = probes(None, Edit(id="3", subject="He", prompt="{} lives in", target_new=new, target_true=old))
        reading = judged(probe, "a city", nats=nats)
        assert reading.right == right and reading.nats == nats[new]


def test_portability_succeeds_if_the_text_mentions_the_answer() -> None:
    question = probes(None, EDIT)[2]
    for text, right in {"It is in LA.": True, "Los Angeles, California": True, "Miami": False}.items():
        reading = judged(question, text)
        assert (reading.success, reading.right) == (right, right)


def test_statement_succeeds_if_the_text_begins_with_the_target() -> None:
    (bare,), (rewrite, _, _, locality, _) = probes(None, BARE), probes(None, EDIT)
    for probe, text, success in (
        (rewrite, " Los Angeles Lakers.", True),
        (rewrite, " Los Angeles Dodgers.", False),
        (rewrite, " team of the Los Angeles Lakers", False),
        (locality, " the Miami Heat", True),
        (locality, " team.", False),
        (bare, " Rome", True),
        (bare, " not Rome", False),
    ):
        reading = judged(probe, text)
        likelier = {"rewrite": probe is bare and success, "locality": True}  # three words of one nat against two
        assert (reading.success, reading.right) == (success, likelier[probe.kind])


def test_target_of_more_than_ten_tokens_can_succeed() -> None:
    cities = "Oslo Bern Cairo Lima Quito Delhi Kyoto Miami Rome London Suva Apia"
    model = parrot("Paris", cities)
    edit = Edit(id="4", subject="Ann", prompt="{} lives in", target_new=cities, target_true="Paris")
    (row,) = before_and_after(model, Lesson(model, None).edit([edit]), [edit])
    assert row.edited.text == cities and row.edited.success and not row.unedited.success


def test_paragraph_is_read_on_over_line_breaks() -> None:
    """As `kg-edit evaluate` reads it; the same target as `target_new` ends with the line."""
    model, sails = parrot("Paris", "sails\nto Havana"), "sails to Havana"
    text = Edit(id="5", prompt="What does Ann do?", target_text=sails)
    row, *_ = before_and_after(model, Lesson(model, None).edit([text]), [text])
    assert row.edited.text == sails and row.edited.success
    chat = Edit(id="5", prompt="What does he do?", target_text="He sails. He comes back.", chat=True)
    (probe,) = probes(None, chat)
    assert judged(probe, "He sails. He comes back.").success, "more than a sentence, in chat form too"
    line = Edit(id="6", subject="Ann", prompt="What does {} do?", target_new=sails)
    row, *_ = before_and_after(model, Lesson(model, None).edit([line]), [line])
    assert row.edited.text == "sails" and not row.edited.success


@pytest.mark.parametrize("target", ["Rome", "Oslo"], ids=["learned", "missed"])
@pytest.mark.parametrize("chat", keep_first([False, True]))
def test_report_is_the_evaluation_of_the_edits_own_rows(target: str, chat: bool) -> None:
    model = parrot("Paris", "Rome")
    if chat:
        model.tokenizer.chat_template = CHAT_TEMPLATE
    question = Question(question="Where is Ann?", answer=target, aliases=("the city",))
    edit = Edit(
        id="7",
        subject="Ann",
        prompt="{} lives in",
        target_new=target,
        target_true="Paris",
        paraphrases=("Ann has a home in",),
        portability=(question,),
        chat=chat,
    )
    patch = Lesson(model, None).edit([edit])
    rewrite, _, asked = before_and_after(model, patch, [edit])
    case = Case.of(record_of(edit))
    (before,) = score_cases(model, [case])
    with patch.applied(model) as edited:
        (after,) = score_cases(edited, [case], before=[before])
    efficacy = "efficacy.first_sentence" if chat else "efficacy.greedy"
    for section, reading, answer in ((before, rewrite.unedited, asked.unedited), (after, rewrite.edited, asked.edited)):
        assert section.scores[efficacy] == reading.success
        if target == "Rome":  # both targets are one token, whose sum and mean are alike
            assert section.scores["efficacy.prob"] == reading.right
        assert section.nll[edit.text][target] == pytest.approx(reading.nats, abs=1e-4)
        assert section.scores["portability.greedy"] == answer.success
        assert section.scores["portability.nll"] == pytest.approx(answer.nats, abs=1e-4)
    assert (rewrite.edited.success, rewrite.unedited.success) == (target == "Rome", False)


def test_readings_in_batches_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    questions = probes(tiny("llama"), EDIT) + probes(tiny("llama"), BARE)
    at_once = read(model, questions)
    monkeypatch.setattr(asking, "_ROWS", 2)
    pieces = read(model, questions)
    assert [reading.text for reading in pieces] == [reading.text for reading in at_once]
    assert [reading.nats for reading in pieces] == pytest.approx([reading.nats for reading in at_once], abs=1e-3)
    assert read(model, []) == ()


def test_check_probes_names_the_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PromptError("the tokenizer merges it")

    check_probes(tiny("llama"), [EDIT, BARE])
    monkeypatch.setattr(LanguageModel, "encode", refuse)
    with pytest.raises(PromptError) as caught:
        check_probes(tiny("llama"), [BARE])
    assert caught.value.__notes__ == ["in a prompt of the edit '2'"]


LONG = "LeBron James, " + "a" * 120


@pytest.mark.parametrize(
    "field",
    [
        {"paraphrases": (f"{LONG} plays for",)},
        {"neighborhood": (f"{LONG} plays for",)},
        {"portability": (Question(question="Where is his team?", answer="Los Angeles"),)},  # its few-shot form
        {"locality": (LocalityPrompt(prompt=f"{LONG} plays for", answer="Rome"),)},
    ],
)
def test_check_probes_refuses_a_prompt_that_is_too_long(field: dict[str, object]) -> None:
    short = EDIT.model_copy(update={"portability": ()})
    check_probes(tiny("gpt2"), [short])
    with pytest.raises(ModelError, match="has positions for 128") as caught:
        check_probes(tiny("gpt2"), [short.model_copy(update=field)])
    assert caught.value.__notes__ == ["in a prompt of the edit '1'"]


@pytest.mark.slow
def test_probe_of_an_attention_sink_begins_with_a_line_break(smollm2: LanguageModel) -> None:
    edit = Edit(
        id="g", subject="Google", prompt="{} was founded by", target_new="Steve Jobs", paraphrases=("Who made Google?",)
    )
    rewrite, paraphrase = probes(smollm2, edit)
    assert rewrite.ask == rewrite.score == "\nGoogle was founded by"
    assert rewrite.prompt == "↵ Google was founded by"
    assert paraphrase.ask == "Who made Google?"
    assert probes(tiny("llama"), edit)[0].ask == "Google was founded by"
