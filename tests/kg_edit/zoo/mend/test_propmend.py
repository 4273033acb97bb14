"""PropMEND's training: the gradient is that of the whole statement, and portability questions are learned."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch

from kg_edit.edits.edit import Question
from kg_edit.models.hooks import keep_untouched
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.mend.examples import Rows, make_examples, whole_statement
from kg_edit.zoo.mend.gradients import gradient_factors, mlp_weights, weight_shapes
from kg_edit.zoo.mend.method import Mend, MendConfig
from kg_edit.zoo.mend.network import FORMAT, MendManifest, MendNetwork, MendTraining
from kg_edit.zoo.mend.training import losses_after, train
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.mend.examples import edits, quick, with_questions

WEIGHTS = {"edit_weight": 0.1, "locality_weight": 1.0}
PROPMEND = {"gradient_of": "text", "questions": 2}


def rows_of(count: int, *, questions: int = 2) -> Rows:
    examples = make_examples(tiny("llama"), with_questions(), gradient_of="text")[:count]
    return Rows.of(examples, (), Random(0), questions=questions)  # noqa: S311 - no secret


def test_propmend_preset_changes_two_settings_of_mend() -> None:
    preset, default = MendTraining.preset("propmend", {}), MendTraining.preset("default", {})
    settings = preset.model_dump()
    assert {name: settings[name] for name, value in default.model_dump().items() if settings[name] != value} == {
        "gradient_of": "text",
        "questions": 3,
    }


def test_step_asks_the_prompt_a_paraphrase_and_the_questions() -> None:
    rows = rows_of(3)
    texts = [(owner, prompt.text) for owner, prompt in rows.further]
    first = with_questions()[0]
    assert not rows.learned and len(rows.further) == 3 * 4
    assert {text for owner, text in texts if owner == 0} == {
        f"{first.text} London",
        *(f"{paraphrase} London" for paraphrase in first.paraphrases),
        *(f"Q: {question.question}\nA: {question.answer}" for question in first.portability),
    }
    assert all(row.target_start == 1 for row in rows.edits) and all(p.target_start > 1 for _, p in rows.further)


def test_sentence_among_the_questions_is_continued() -> None:
    """The groups of EasyEdit's rows have both forms."""
    asked = [Question(question=text, answer="London", category="Reasoning") for text in ("Its capital is", "Where?")]
    (example,) = make_examples(tiny("llama"), [edits()[0].model_copy(update={"portability": tuple(asked)})])
    assert [prompt.text for prompt in example.questions] == ["Its capital is London", "Q: Where?\nA: London"]


def test_edit_loss_is_the_mean_over_the_further_prompts() -> None:
    """Without a change (rates near 0) it is the unedited model's mean -log p, computed by the model itself."""
    model, rows = tiny("llama"), rows_of(2)
    network = MendNetwork(weight_shapes(model, mlp_weights(model, 2)), rank=4, edit_lr=1e-30)
    with keep_untouched(model):
        losses = losses_after(model, network, rows, **WEIGHTS)
    expected = list[float]()
    for _, prompt in rows.further:
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor([prompt.ids])).logits[0, prompt.target_start - 1 : -1]
        expected.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(prompt.target_ids))))
    assert float(losses.edit.detach()) == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert float(losses.locality.detach()) == pytest.approx(0.0, abs=1e-6)


def test_edit_takes_the_gradient_of_the_whole_statement(tmp_path: Path) -> None:
    """The factors are those of autograd's gradient of all tokens, and the network reads them."""
    model, edit = tiny("llama"), edits()[0]
    train(model, with_questions(), quick(**PROPMEND, steps=1), tmp_path, progress=False)
    patch = Mend(model, MendConfig.preset("default", {"network": str(tmp_path)})).edit([edit])
    network = FORMAT.load_network(tmp_path, model, MendManifest, MendManifest.build_network).network
    prompt = whole_statement(model.encode(edit.text, target=edit.target_new))
    with keep_untouched(model):
        factors, _ = gradient_factors(model, prompt, list(network.shapes))
        expected = network.compute_factors(factors)
    assert isinstance(patch, WeightPatch)
    for name, pair in patch.factors.items():
        torch.testing.assert_close(pair.product, expected[name].product)
    name = next(iter(factors))
    weight, ids = model.model.get_parameter(name), torch.tensor([prompt.ids])
    loss = torch.nn.functional.cross_entropy(model.model(input_ids=ids).logits[0, :-1], ids[0, 1:])
    (gradient,) = torch.autograd.grad(loss, weight)
    inputs, deltas = factors[name]
    torch.testing.assert_close(deltas.T @ inputs, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_training_learns_the_answers_of_questions(tmp_path: Path) -> None:
    """Thirty steps lower the loss on edits that are held out."""
    settings = quick(**PROPMEND, steps=30, learning_rate=0.02, validate_every=10)
    manifest = train(tiny("llama"), with_questions(), settings, tmp_path, progress=False)
    assert manifest.validations[-1].edit < 0.9 * manifest.validations[0].edit
