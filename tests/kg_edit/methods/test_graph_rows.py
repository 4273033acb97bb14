"""What the graph states enters the loss of the value at s: as rows, with the weight that the settings say."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
import torch

from kg_edit.edits.edit import Edit, Question
from kg_edit.locate_then_edit.objective import FurtherRow
from kg_edit.methods import find_method
from kg_edit.methods.glame.method import Glame
from kg_edit.methods.glame_plus.method import GlamePlus
from kg_edit.methods.rome.method import Rome
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import WeightPatch
from tests.everyday import keep_first
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny

EDIT = Edit(
    id="1",
    subject="Fiat Uno",
    prompt="{}, produced by",
    relation="manufacturer",
    relation_id="P176",
    target_new="Toyota",
)


def graph(*further: tuple[str, str]) -> nx.MultiDiGraph:
    """Toyota has a country, as things like it usually have, and an industry, which is not in the packaged table."""
    statements = nx.MultiDiGraph()
    for relation, label in (("country", "Japan"), ("industry", "automotive industry"), *further):
        statements.add_edge("Toyota", label, label=relation)
    return statements


def glame(model: LanguageModel, **settings: Any) -> Glame:
    config = Glame.config_class.preset("default", {**QUICK["glame"], **settings})
    return Glame(model, config, graph=graph())


def plus(model: LanguageModel, **settings: Any) -> GlamePlus:
    config = GlamePlus.config_class.preset("default", {**QUICK["glame-plus"], "stated": 9, "recalled": 0, **settings})
    return GlamePlus(model, config, graph=graph())


def nll(model: LanguageModel, row: FurtherRow) -> float:
    """The mean of -log p over the tokens of the row's target, by one plain forward pass."""
    ids = torch.tensor([row.prompt.ids])
    log_p = model.model(ids).logits[0].log_softmax(-1)
    places = range(row.prompt.target_start, len(row.prompt.ids))
    losses = [-float(log_p[place - 1, row.prompt.ids[place]].detach()) for place in places]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("make", [glame, plus])
@pytest.mark.parametrize("weight", keep_first([2.0, 0.5]))
def test_rows_enter_the_loss_with_the_stated_weight(make: Any, weight: float) -> None:
    """L_further is the weight times the mean of -log p over the rows: the edit twice, the country, the industry."""
    model = tiny("llama")
    names = {"graph_rows": 9, "graph_weight": weight} if make is glame else {"ripple_weight": weight}
    every = {} if make is glame else {"every_relation": True}
    method = make(model, **names, **every)
    (request,) = method.complete_requests(model, [EDIT], [method.request(EDIT)])
    loss = method.objective(model, [EDIT], [request])
    rows = request.further
    taught = [str(model.tokenizer.decode(list(row.prompt.target_ids))).strip() for row in rows]
    assert taught == ["Toyota", "Toyota", "Japan", "automotive industry"]
    by_hand = weight * sum(nll(model, row) for row in rows) / len(rows)
    with torch.no_grad():
        unchanged = loss(torch.zeros_like(loss.value))
    assert float(unchanged.further[0]) == pytest.approx(by_hand, rel=1e-4)
    assert float(unchanged.total[0]) == pytest.approx(float((unchanged.nll + unchanged.further)[0]), rel=1e-4)


def test_published_form_has_no_rows() -> None:
    model = tiny("llama")
    assert glame(model).request(EDIT).further == ()
    assert plus(model, ripple_weight=0.0).request(EDIT).further == ()
    for name in ("paper", "code", "gpt2-xl"):
        settings = find_method("glame").config_class.preset(name, method="glame").model_dump()
        assert settings["graph_rows"] == 0, name


def test_no_row_has_the_answer_of_a_test_question() -> None:
    model = tiny("llama")
    asked = EDIT.model_copy(update={"portability": (Question(question="Where is it made?", answer="Japan"),)})
    rows = glame(model, graph_rows=9).request(asked).further
    texts = [row.prompt.text for row in rows]
    assert not any("Japan" in text for text in texts) and any("automotive" in text for text in texts)


def test_rows_are_of_all_statements_and_not_only_of_sampled_ones() -> None:
    rows = {count: glame(tiny("llama"), graph_rows=9, per_node=count).request(EDIT).further for count in (1, 9)}
    assert len(rows[1]) == len(rows[9]) == 4


def test_number_of_rows_is_limited() -> None:
    assert len(glame(tiny("llama"), graph_rows=1).request(EDIT).further) == 3


def test_rows_change_the_value_and_the_record_names_them() -> None:
    model = tiny("llama")
    plain, with_rows = glame(model).edit([EDIT]), glame(model, graph_rows=9).edit([EDIT])
    assert isinstance(plain, WeightPatch) and isinstance(with_rows, WeightPatch)
    (name,) = plain.factors
    assert not torch.allclose(plain.factors[name].left, with_rows.factors[name].left, rtol=1e-3)
    learned = {"manufacturer": "Toyota", "country of the manufacturer": "Japan"}
    assert with_rows.edits[0]["learned"].items() >= learned.items()
    assert "learned" not in plain.edits[0]


@pytest.mark.slow
def test_without_the_weight_the_value_of_glame_plus_is_that_of_rome() -> None:
    """The form before: the late block alone learns what follows."""
    model = tiny("llama")
    rome = Rome(model, Rome.config_class.preset("default", QUICK["rome"])).edit([EDIT])
    late = plus(model, ripple_weight=0.0).edit([EDIT])
    both = plus(model, ripple_weight=2.0).edit([EDIT])
    assert isinstance(rome, WeightPatch) and isinstance(late, WeightPatch) and isinstance(both, WeightPatch)
    (site,) = rome.factors
    torch.testing.assert_close(late.factors[site].left, rome.factors[site].left, rtol=1e-3, atol=1e-4)
    assert set(both.factors) == set(late.factors) and len(late.factors) == 2
    assert not torch.allclose(both.factors[site].left, rome.factors[site].left, rtol=1e-3)
