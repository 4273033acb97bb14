"""Rows besides an edit's rewrites: their loss written out, fast equals plain, padded or not, done ones leave."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode
from kg_edit.value.objective import ExtraTarget, Objective, Request, SoftTarget, equally_long
from kg_edit.value.plain_forward import PlainForward
from kg_edit.value.tail_forward import TailForward
from tests.kg_edit.tiny import tiny

LAYER = 1
FACTS = (("The country of the team of {} is", "the United States of America"), ("Who pays {}? It is", "Jeanie Buss"))


def lesson(tokens: int, vocabulary: int) -> SoftTarget:
    """Three likely tokens at each place."""
    drawn = torch.Generator().manual_seed(tokens)
    shares = torch.rand(tokens, 3, generator=drawn)
    return SoftTarget(
        tokens=torch.randint(vocabulary, (tokens, 3), generator=drawn),
        probabilities=shares / shares.sum(-1, keepdim=True),
    )


def requests(model: LanguageModel) -> list[Request]:
    """Two edits with one rewrite each, a right token's row and a taught one each."""
    made = []
    for subject in ("LeBron James", "Magic Johnson"):
        rows = [encode(model.tokenizer, prompt, subject=subject, target=target) for prompt, target in FACTS]
        taught = lesson(len(rows[1].target_ids), model.model.config.vocab_size)
        made.append(
            Request(
                rewrites=(encode(model.tokenizer, "{} plays for", subject=subject, target="Lakers"),),
                essence=encode(model.tokenizer, "{} is a", subject=subject),
                further=(
                    ExtraTarget(prompt=rows[0], weight=0.3),
                    ExtraTarget(prompt=rows[1], weight=0.7, taught=taught),
                ),
            )
        )
    return made


def at(model: LanguageModel) -> Tensor:
    return torch.randn(2, model.width, generator=torch.Generator().manual_seed(1))


def test_the_loss_written_out() -> None:
    model = tiny("gpt2")
    wanted, change = requests(model), at(model)
    losses = Objective(model, LAYER, wanted, kl_weight=0.5)(change)
    for edit, request in enumerate(wanted):
        right, taught = request.further
        forwards = [PlainForward(model, LAYER, [row.prompt]).logits(change[edit : edit + 1]) for row in (right, taught)]
        first, second = (logits.log_softmax(-1) for logits in forwards)
        nll = -first[torch.arange(len(first)), list(right.prompt.target_ids)].mean()
        assert taught.taught is not None
        soft = -(taught.taught.probabilities * second.gather(-1, taught.taught.tokens)).sum(-1).mean()
        torch.testing.assert_close(losses.further[edit], 0.3 * nll + 0.7 * soft)
    expected = losses.nll + 0.5 * losses.kl + losses.further
    torch.testing.assert_close(losses.total, expected)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "falcon-alibi", "llama"])
def test_fast_equals_plain_padded_or_not(family: str) -> None:
    model, gradients = tiny(family), []
    for forward, slack in ((PlainForward, 1), (TailForward, 1), (TailForward, 8)):
        found = Objective(model, LAYER, requests(model), kl_weight=0.5, forward=forward, slack=slack)
        gradients.append(found.gradient(at(model)))
    (plain, exact), *others = gradients
    assert exact.abs().max() > 1e-3, "the test must be able to fail"
    for losses, gradient in others:
        torch.testing.assert_close(losses.further, plain.further, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(losses.total, plain.total, rtol=1e-5, atol=1e-5)
        assert (gradient - exact).norm() < 1e-5 * exact.norm()


def test_edits_that_are_done_take_their_further_rows_along() -> None:
    model = tiny("llama")
    found, change = Objective(model, LAYER, requests(model), kl_weight=0.5), at(model)
    before, gradient = found.gradient(change)
    found.drop({0})
    after, left = found.gradient(change)
    assert after.further[0] == 0 and left[0].abs().max() == 0
    torch.testing.assert_close(after.total[1], before.total[1])
    torch.testing.assert_close(left[1], gradient[1])


def test_slack_makes_fewer_groups() -> None:
    from kg_edit.value.objective import TargetRow

    model = tiny("llama")
    rows = [TargetRow(edit=0, prompt=row.prompt) for request in requests(model) for row in request.further]
    lengths = {len(row.prompt.ids) - row.prompt.edited_at for row in rows}
    assert len(lengths) > 1
    assert len(list(equally_long(rows, tokens=512))) == len(lengths)
    assert [row for group in equally_long(rows, tokens=512, slack=64) for row in group] == rows
