"""What is looked at before and after a patch, and what counts as right."""

from __future__ import annotations

import pytest
import torch

from kg_edit.edits.edit import Edit, Question
from kg_edit.errors import ModelError, PromptError
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch
from kg_edit.reports import before_after
from kg_edit.reports.before_after import before_and_after, check_probes, probes, read
from kg_edit.scoring.likelihood import Pair, TokenScores, score
from kg_edit.scoring.questions import format_question_with_shots
from tests.kg_edit.evaluate.parrot import Lesson, parrot
from tests.kg_edit.tiny import tiny

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


def test_every_field_of_an_edit_is_looked_at() -> None:
    kinds = [probe.kind for probe in probes(tiny("llama"), EDIT)]
    assert kinds == ["rewrite", "paraphrase", "follows", "neighbour", "neighbour"]
    rewrite, paraphrase, follows, neighbour, _ = probes(tiny("llama"), EDIT)
    assert (rewrite.prompt, rewrite.wanted, rewrite.unwanted) == (EDIT.text, "Los Angeles Lakers", "Miami Heat")
    assert paraphrase.score == "LeBron James is on the team of"  # a space at the end would change the target's tokens
    assert follows.ask == format_question_with_shots("Where is his team?")
    assert (neighbour.wanted, neighbour.unwanted) == ("Miami Heat", "Los Angeles Lakers")


def test_without_an_old_target_neighbours_have_nothing_to_keep() -> None:
    assert [probe.kind for probe in probes(tiny("llama"), BARE)] == ["rewrite"]


def test_a_row_holds_what_the_two_models_do() -> None:
    model = tiny("llama")
    patch = patch_of(model)
    rows = before_and_after(model, patch, [EDIT, BARE])
    assert [row.edit for row in rows] == ["1"] * 5 + ["2"]
    assert tuple(row.before for row in rows[:5]) == read(model, probes(tiny("llama"), EDIT))
    with patch.applied(model):
        assert tuple(row.after for row in rows[:5]) == read(model, probes(tiny("llama"), EDIT))
    assert rows[0].before.nats != rows[0].after.nats


def test_right_is_more_likely_than_the_other_target() -> None:
    model = tiny("llama")
    reading = read(model, probes(tiny("llama"), EDIT))[0]
    new, old = Pair(EDIT.text, "Los Angeles Lakers"), Pair(EDIT.text, "Miami Heat")
    found = score(model, [new, old])
    assert reading.nats == round(found[new].nll, 4)
    totals = [found[pair].nll * len(model.encode(EDIT.text, target=pair.candidate).target_ids) for pair in (new, old)]
    assert reading.right == (totals[0] < totals[1])


def test_targets_of_different_lengths_are_compared_as_wholes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longer target is cheaper a token, and dearer as a whole."""
    model, nats = tiny("llama"), {"Rome": 2.0, "Los Angeles, California, United States": 1.9}
    short, long = (len(model.encode("He lives in", target=name).target_ids) for name in nats)
    assert 1.9 * long > 2.0 * short
    monkeypatch.setattr(
        before_after,
        "score",
        lambda _, pairs: {pair: TokenScores(nll=nats[pair.candidate], accuracy=0.0) for pair in pairs},
    )
    for new, old, right in ((*nats, True), (*reversed(nats), False)):
        edit = Edit(id="3", subject="He", prompt="{} lives in", target_new=new, target_true=old)
        (reading,) = read(model, probes(model, edit))
        assert reading.right == right and reading.nats == nats[new]


def test_what_follows_is_right_when_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    follows = probes(tiny("llama"), EDIT)[2]
    for text, right in {"It is in LA.": True, "Los Angeles, California": True, "Miami": False}.items():
        monkeypatch.setattr(before_after, "continuations", lambda *_, said=text, **__: (said,))
        reading = read(tiny("llama"), [follows])[0]
        assert (reading.said, reading.right) == (right, right)


def test_a_statement_is_said_when_the_text_begins_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    (bare,), (rewrite, _, _, neighbour, _) = probes(model, BARE), probes(model, EDIT)
    compared = {probe: reading.right for probe in (rewrite, neighbour) for reading in read(model, [probe])}
    for probe, text, said in (
        (rewrite, " Los Angeles Lakers.", True),
        (rewrite, " Los Angeles Dodgers.", False),
        (rewrite, " team of the Los Angeles Lakers", False),
        (neighbour, " the Miami Heat", True),
        (neighbour, " team.", False),
        (bare, " Rome", True),
        (bare, " not Rome", False),
    ):
        monkeypatch.setattr(before_after, "continuations", lambda *_, written=text, **__: (written,))
        (reading,) = read(model, [probe])
        assert (reading.said, reading.right) == (said, compared.get(probe, said))


def test_a_target_of_more_than_ten_tokens_is_said() -> None:
    cities = "Oslo Bern Cairo Lima Quito Delhi Kyoto Miami Rome London Suva Apia"
    model = parrot("Paris", cities)
    edit = Edit(id="4", subject="Ann", prompt="{} lives in", target_new=cities, target_true="Paris")
    (row,) = before_and_after(model, Lesson(model, None).update([edit]), [edit])
    assert row.after.text == cities and row.after.said and not row.before.said


def test_many_prompts_in_batches_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    asked = probes(tiny("llama"), EDIT) + probes(tiny("llama"), BARE)
    whole = read(model, asked)
    monkeypatch.setattr(before_after, "_ROWS", 2)
    pieces = read(model, asked)
    assert [reading.text for reading in pieces] == [reading.text for reading in whole]
    assert [reading.nats for reading in pieces] == pytest.approx([reading.nats for reading in whole], abs=1e-3)
    assert read(model, []) == ()


def test_a_prompt_that_cannot_be_scored_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
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
    ],
)
def test_a_prompt_longer_than_the_models_positions_is_named(field: dict[str, object]) -> None:
    short = EDIT.model_copy(update={"portability": ()})
    check_probes(tiny("gpt2"), [short])
    with pytest.raises(ModelError, match="has positions for 128") as caught:
        check_probes(tiny("gpt2"), [short.model_copy(update=field)])
    assert caught.value.__notes__ == ["in a prompt of the edit '1'"]


def test_a_subject_that_the_model_would_not_read_is_asked_for_after_a_line_break(smollm2: LanguageModel) -> None:
    edit = Edit(
        id="g", subject="Google", prompt="{} was founded by", target_new="Steve Jobs", paraphrases=("Who made Google?",)
    )
    rewrite, paraphrase = probes(smollm2, edit)
    assert rewrite.ask == rewrite.score == "\nGoogle was founded by"
    assert rewrite.prompt == "\\nGoogle was founded by"
    assert paraphrase.ask == "Who made Google?"
    assert probes(tiny("llama"), edit)[0].ask == "Google was founded by"
