"""SERAC's training: texts inside and outside a scope, both parts learn, and a killed run resumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kg_edit.errors import ConfigError
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.zoo.mend.gradients import weight_shapes
from kg_edit.zoo.serac import training
from kg_edit.zoo.serac.counterfactual import block_weights
from kg_edit.zoo.serac.examples import ExampleOrder, Question, ScopeRows, write_texts
from kg_edit.zoo.serac.method import Serac, SeracConfig
from kg_edit.zoo.serac.network import FORMAT, SeracManifest, SeracNetwork, SeracTraining
from kg_edit.zoo.serac.patch import ScopePatch
from kg_edit.zoo.serac.special_token import find_marker
from kg_edit.zoo.serac.training import StateCache, answer_loss, score_scopes, train
from tests.kg_edit.tiny import families, tiny
from tests.kg_edit.zoo.mend.examples import edits, hooks_of


def quick(**settings: Any) -> SeracTraining:
    small = {"layer": 1, "size": 8, "scope_batch": 4, "blocks": 2, "rank": 2, "batch": 2, "steps": 6, "validation": 4}
    fast = {"scope_learning_rate": 0.02, "learning_rate": 0.02, "validate_every": 2, "texts": 3, "text_tokens": 4}
    return SeracTraining.preset("default", {**small, **fast, **settings})


def manifest_of(out: Path, **settings: Any) -> SeracManifest:
    return train(tiny("llama"), edits(), quick(**settings), out, progress=False, checkpoint_seconds=0.0)


def fresh(family: str = "llama") -> SeracNetwork:
    model = tiny(family)
    shapes = weight_shapes(model, block_weights(model, 2))
    return SeracNetwork(shapes, width=model.width, size=8, heads=2, rank=2)


def test_text_with_the_subject_is_not_certainly_outside() -> None:
    """A text with an edit's subject that was taken for another edit may be in its scope."""
    first, second = edits()[0], edits()[3]
    rows = ScopeRows(edits=(first, second), inside=("a", "b"), outside=(), texts=())
    assert not rows.is_surely_outside(f"The team of {first.subject.upper()} is", edit_index=0, drawn_for=1)
    assert rows.is_surely_outside("The team of Dwyane Wade is", edit_index=0, drawn_for=1)
    own = rows.is_surely_outside("whatever", edit_index=0, drawn_for=0)
    assert not own, "its own texts are not its counterexamples"
    assert rows.is_surely_outside("a text of the model", edit_index=0, drawn_for=None)


def test_each_edit_has_texts_inside_and_outside() -> None:
    dozen = [edits()[0], edits()[3].model_copy(update={"prompt": "Where does {} flow?"})] * 6
    order = ExampleOrder(dozen, ("so it is", "once upon a time"), quick(validation=4, behind=0.5))
    rows = order.scope_rows(0)
    assert len(rows.inside) == len(rows.edits) == 4
    owners = [owner for owner, _ in rows.outside]
    assert sorted(owners) == [0, 0, 1, 1, 2, 2, 3, 3], "a neighbour and another relation of the subject"
    for owner, text in rows.outside[4:]:
        assert rows.edits[owner].subject in text and not text.endswith(rows.edits[owner].text)
    assert rows == order.scope_rows(0) and rows != order.scope_rows(1)
    placed = [text for text in (*rows.inside, *(text for _, text in rows.outside)) if text.startswith(("so", "once"))]
    assert 0 < len(placed) < 12, "a part of them comes after a text"
    assert all(text in {edit.text for edit in dozen} for text in (q.prompt.split(". ")[-1] for q in order.questions(0)))


def test_texts_of_the_model_are_on_one_line() -> None:
    texts = write_texts(tiny("llama"), rows=4, tokens=6, seed=0)
    assert len(texts) == 4 and not any("\n" in text or not text for text in texts)


@pytest.mark.parametrize("family", families(("llama", "gpt2")))
def test_counterfactual_model_starts_equal_to_the_model(family: str) -> None:
    """Row by row in a padded batch: the mean of the scores of each prompt with its fact."""
    model, network = tiny(family), fresh(family)
    questions = [
        Question(fact="LeBron James plays for Paris", prompt="LeBron James plays for", target="Paris"),
        Question(fact="France is", prompt="In France, the river Thames", target="London"),
    ]
    marker, before = find_marker(model.tokenizer, name="toy"), hooks_of(model)
    with keep_untouched(model):
        loss = answer_loss(model, network, marker, questions)
    pairs = [Pair(f"{marker.text}New fact: {q.fact}\nPrompt: {q.prompt}", q.target) for q in questions]
    expected = [score(model, [pair])[pair].nll for pair in pairs]
    assert float(loss.detach()) == pytest.approx(sum(expected) / 2, abs=1e-4)
    assert hooks_of(model) == before


def test_gradients_reach_both_parts_and_no_weight_of_the_model() -> None:
    model, network = tiny("llama"), fresh()
    with keep_untouched(model):
        order = ExampleOrder.of(model, edits(), quick())
        scope = score_scopes(network, StateCache(model, 1), order.scope_rows(0))
        answer = answer_loss(model, network, find_marker(model.tokenizer, name="toy"), order.questions(0))
        (scope.loss + answer).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(float(left.grad.abs().sum()) > 0 for left in network.left)  # type: ignore[union-attr]
    assert all(parameter.grad is None for parameter in model.model.parameters())


@dataclass
class Found:
    """A tensor as far as its place matters; there is no accelerator here."""

    place: str

    def cpu(self) -> Found:
        return Found("cpu")

    def to(self, place: str) -> Found:
        return Found(place)


def test_states_are_kept_in_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator there are only those that a step compares."""
    monkeypatch.setattr(training, "text_states", lambda *_: Found("cuda:1"))
    states = StateCache(cast(LanguageModel, SimpleNamespace(device="cuda:0")), 1)
    assert states.of(["a", "b", "a"]) == [Found("cuda:0")] * 3
    assert states._known == {"a": Found("cpu"), "b": Found("cpu")}


def test_held_out_edits_count_equally(tmp_path: Path) -> None:
    """Five edits in batches of four and one: shares are fifths, not the mean of quarters and one."""
    for v in manifest_of(tmp_path, steps=2, validation=5).validations:
        assert (5 * v.inside) % 1 == pytest.approx(0, abs=1e-5) or (5 * v.inside) % 1 == pytest.approx(1)


@pytest.mark.slow
def test_training_learns_and_edits(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, steps=12, validate_every=4)
    first, *_, last = manifest.validations
    assert last.edit < first.edit and last.scope < first.scope
    model, edit = tiny("llama"), edits()[0]
    patch = Serac(model, SeracConfig(network=str(tmp_path), threshold=0.0)).edit([edit])
    assert isinstance(patch, ScopePatch) and patch.changes
    (method,) = patch.provenance["methods"]
    assert (
        method["editor"]["digest"]
        == FORMAT.load_network(tmp_path, model, SeracManifest, SeracManifest.build_network).digest
        == patch.rule.network
    )
    assert method["editor"]["steps"] == manifest.steps
    pair = Pair(edit.text, edit.target_new)
    with patch.applied(model) as edited:
        assert score(edited, [pair])[pair].nll < score(model, [pair])[pair].nll


def test_held_out_question_that_cannot_be_asked_does_not_count(tmp_path: Path) -> None:
    model, settings = tiny("gpt2"), quick(steps=1, validation=9, batch=4, scope_batch=4)
    long = [edit.model_copy(update={"prompt": "so " * 150 + "{} is", "paraphrases": ()}) for edit in edits()]
    mixed = [*edits()[::2], *long[1::2]]
    asked = [q for q in ExampleOrder.of(model, mixed, settings).held_out_questions() if "so so" not in q.prompt]
    assert 0 < len(asked) < 9
    with keep_untouched(model):
        expected = answer_loss(model, fresh("gpt2"), find_marker(model.tokenizer, name="toy"), asked)
    assert train(model, mixed, settings, tmp_path / "mixed").validations[0].edit == pytest.approx(
        float(expected.detach())
    )
    with pytest.raises(ConfigError, match="none of the 9 held-out edits can be asked"):
        train(model, long, settings, tmp_path / "long")
    assert not (tmp_path / "long").exists()
