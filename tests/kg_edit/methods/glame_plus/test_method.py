"""GLAME beyond the paper: what the value learns, what it may not learn, and that many edits equal one at a time."""

from __future__ import annotations

import copy
from typing import Any

import networkx as nx
import pytest
import torch

from kg_edit.edits.edit import Edit, Question
from kg_edit.methods.glame_plus.method import GlamePlus, GlamePlusConfig
from kg_edit.methods.glame_plus.teacher import TeacherQuestion, answers_of
from kg_edit.methods.rome.method import Rome, RomeConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.generation import continuations
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny

EDIT = Edit(
    id="1",
    subject="LeBron James",
    prompt="{} plays for",
    relation="team",
    relation_id="P54",
    target_new="Los Angeles Lakers",
    portability=(Question(question="Where does his team play?", answer="Los Angeles, California"),),
)
OTHER = EDIT.model_copy(update={"id": "2", "subject": "Stephen Curry"})


def graph() -> nx.DiGraph:
    """What is known of the new team."""
    subgraph = nx.DiGraph()
    for label, relation in (("United States of America", "country"), ("California", "located in"), ("NBA", "league")):
        subgraph.add_edge("Los Angeles Lakers", label, label=relation)
    return subgraph


def method(model: LanguageModel, **settings: Any) -> GlamePlus:
    config = GlamePlusConfig.preset("one-value", {**QUICK["glame-plus"], "answers": None, **settings})
    return GlamePlus(model, config, graph=graph())


def targets(model: LanguageModel, edit: Edit = EDIT, **settings: Any) -> list[str]:
    """What the graph's rows of an edit teach."""
    request = method(model, own=0, **settings).request(edit)
    return [str(model.tokenizer.decode(list(row.prompt.target_ids))).strip() for row in request.further]


def test_an_edit_whose_relation_has_no_noun_learns_nothing_that_follows(caplog: pytest.LogCaptureFixture) -> None:
    nameless = EDIT.model_copy(update={"relation": None, "relation_id": None})
    plus = method(tiny("llama"))
    plus.check([EDIT])
    assert "no words for" not in caplog.text
    plus.check([nameless])
    assert "no words for" in caplog.text
    assert plus.request(nameless).further == ()


def test_answers_of_test_questions_are_excluded_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    nouns = {"country": "country", "located in": "headquarters", "league": "league"}
    monkeypatch.setattr("kg_edit.methods.composed_facts.relation_nouns", lambda _: nouns)
    assert targets(model, stated=9) == ["United States of America", "NBA"]
    assert "California" in targets(model, stated=9, exclude_answers=False)
    assert "California" in targets(model, EDIT.model_copy(update={"portability": ()}), stated=9)


def test_edit_itself_is_learned_as_questions() -> None:
    chosen, edit = method(tiny("llama"), own=2, stated=0), EDIT.model_copy(update={"portability": ()})
    first, second = chosen.request(edit).further
    assert first.prompt.ids != second.prompt.ids
    assert first.prompt.target_ids == second.prompt.target_ids
    assert chosen.request(EDIT).further == (), "its new object holds the answer of the test question"
    assert EDIT.target_new in first.prompt.text and "What is the team of LeBron James" in first.prompt.text


def test_test_questions_do_not_change_the_patch() -> None:
    """An edit with another question, whose answer no statement shares, gives the same bytes."""
    model = tiny("llama")
    question = (Question(question="What colour are the shirts?", answer="Qwxyz"),)
    plain, other = (method(model).edit_each([EDIT.model_copy(update={"portability": q})])[0] for q in ((), question))
    assert isinstance(plain, WeightPatch) and isinstance(other, WeightPatch)
    for name, factors in plain.factors.items():
        assert torch.equal(factors.left, other.factors[name].left)


def test_record_has_the_learned_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "kg_edit.methods.composed_facts.relation_nouns", lambda _: {"country": "country", "located in": "region"}
    )
    (patch,) = method(tiny("llama")).edit_each([EDIT])
    assert isinstance(patch, WeightPatch)
    (record,) = patch.provenance["edits"]
    assert record["stated"] == {"country of the team": "United States of America"}


def test_glame_plus_without_further_facts_is_rome() -> None:
    model = tiny("llama")
    settings = QUICK["rome"]
    (rome,) = Rome(model, RomeConfig(**settings, hold=0.0)).edit_each([EDIT])
    (plus,) = method(model, own=0, recalled=0, stated=0).edit_each([EDIT])
    assert isinstance(rome, WeightPatch) and isinstance(plus, WeightPatch)
    for name, factors in rome.factors.items():
        torch.testing.assert_close(factors.left, plus.factors[name].left, rtol=1e-3, atol=1e-4)


@pytest.fixture
def sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model says different things in two forms; asked twice in one form it agrees with itself."""
    monkeypatch.setattr(TeacherQuestion, "as_sentence", TeacherQuestion.as_question)


@pytest.mark.slow
@pytest.mark.usefixtures("sure")
def test_recalled_facts_change_the_value() -> None:
    model, edit = tiny("llama"), EDIT.model_copy(update={"relation_id": "P54", "portability": ()})
    without, taught = (method(model, recalled=count, stated=0).edit_each([edit])[0] for count in (0, 4))
    assert isinstance(without, WeightPatch) and isinstance(taught, WeightPatch)
    (name,) = without.factors
    assert (without.factors[name].left - taught.factors[name].left).norm() > 1e-3 * without.factors[name].left.norm()


def test_answer_that_differs_between_forms_is_not_learned() -> None:
    """The tiny model says something else as a sentence."""
    query = TeacherQuestion(noun="country", of="Toyota")
    ((first, _), (second, _)) = query.as_question.longest_first, query.as_sentence.longest_first
    model = tiny("llama")
    outputs = continuations(model, [first, second], limits=(3, 3))
    assert not outputs[0].startswith(outputs[1]) and not outputs[1].startswith(outputs[0]), "else nothing is tested"
    assert answers_of(model, [query], most=3) == [None]


@pytest.mark.usefixtures("sure")
@pytest.mark.parametrize("family", ["llama", "gemma2", "falcon-alibi"])
def test_teachers_distribution_is_that_of_its_answer(family: str) -> None:
    """Also where the last norm does something: a norm taken twice must show."""
    model = copy.deepcopy(tiny(family))
    for name, weight in model.model.named_parameters():
        if weight.ndim == 1 and name.endswith("weight"):
            torch.nn.init.uniform_(weight, 0.2, 3.0, generator=torch.Generator().manual_seed(0))
    queries = [
        TeacherQuestion(noun="country", of="Toyota"),
        TeacherQuestion(noun="river", of="Paris", examples=(("Rome", "Tiber"), ("Paris", "Seine"))),
    ]
    answers = answers_of(model, queries, most=3)
    assert any(answers), "the test must be able to fail"
    for query, answer in zip(queries, answers, strict=True):
        if answer:
            ids = [*model.encode(query.as_question.longest_first[0]).ids, *answer.ids]
            logits = model.model(torch.tensor([ids])).logits[0, -len(answer.ids) - 1 : -1]
            assert logits.argmax(-1).tolist() == list(answer.ids)
            best = logits.softmax(-1).topk(64).values
            torch.testing.assert_close(
                answer.soft_target.probabilities, best / best.sum(-1, keepdim=True), rtol=1e-3, atol=1e-6
            )
            assert answer.soft_target.tokens[:, 0].tolist() == list(answer.ids)


def test_prompt_without_examples_is_used_if_positions_are_few() -> None:
    model = tiny("gpt2")
    query = TeacherQuestion(noun="country", of="Toyota", examples=(("Fiat", "Italy"),) * 9)
    with_examples, alone = query.as_question.longest_first
    assert with_examples.count("Fiat") == 4 and alone == "Q: What is the country of Toyota?\nA:"
    limit = model.model.config.max_position_embeddings
    assert len(model.encode(with_examples, fitting=False).ids) > limit, "else nothing is tested"
    assert len(answers_of(model, [query, TeacherQuestion(noun="country", of="Toyota " * limit)], most=3)) == 2


def test_teacher_is_not_asked_for_relations_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    nouns = {"country": "country", "league": "league"}
    monkeypatch.setattr("kg_edit.methods.composed_facts.relation_nouns", lambda _: nouns)
    model = tiny("llama")
    asks = {}
    for stated in (0, 9):
        ripples = method(model, stated=stated, recalled=5).find_targets(EDIT)
        asks[stated] = [question.noun for question in ripples.teacher_questions]
    assert "country" in asks[0] and "country" not in asks[9]


@pytest.mark.slow
def test_objects_are_ranked_again_on_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an edited model finds likeliest may be something else: nothing is kept between two calls."""
    monkeypatch.setattr("kg_edit.methods.composed_facts.relation_nouns", lambda _: {"country": "country"})
    countries = nx.DiGraph()
    for label in ("Peru", "Urep"):  # as many tokens each: the sign of the logits decides
        countries.add_edge("Los Angeles Lakers", label, label="country")
    model = copy.deepcopy(tiny("llama"))
    chosen = GlamePlus(model, GlamePlusConfig.preset("default", QUICK["glame-plus"]), graph=countries)
    weight, orders = model.model.get_output_embeddings().weight, set[tuple[str, ...]]()
    clean = weight.detach().clone()
    for sign in (1, -1):  # what was likeliest becomes unlikeliest
        with torch.no_grad():
            weight.copy_(9 * sign * clean)
        chosen.edit_each([EDIT])
        orders.add(tuple(chosen.find_targets(EDIT).objects["country"]))
    assert len(orders) == 2
