"""Rows besides an edit's rewrites: their loss written out, fast equals plain, padded or not, done ones leave."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kg_edit.locate_then_edit.objective import ExtraTarget, Objective, Request, SoftTarget, TargetRow, passes
from kg_edit.locate_then_edit.plain_forward import PlainForward
from kg_edit.locate_then_edit.tail_forward import TailForward
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode
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
    for forward, tokens in ((PlainForward, 512), (TailForward, 1), (TailForward, 512)):
        found = Objective(model, LAYER, requests(model), kl_weight=0.5, forward=forward, tokens=tokens)
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


def test_few_rows_share_a_pass_and_many_of_unlike_length_do_not() -> None:
    model = tiny("llama")
    few = [TargetRow(edit=0, prompt=row.prompt) for request in requests(model) for row in request.further]
    few.append(TargetRow(edit=0, prompt=requests(model)[0].rewrites[0], part="kl"))
    lengths = {row.length for row in few}
    assert len(lengths) > 1
    (together,) = passes(few, tokens=512)
    assert len(together) == len(few) and [row.part for row in together] == ["kl"] + ["nll"] * (len(few) - 1)
    many = [row for row in few for _ in range(100)]
    apart = list(passes(many, tokens=10_000))
    assert [len({row.length for row in some}) for some in apart] == [1] * len(lengths)
    for tokens in (1, 40):
        pieces = list(passes(many, tokens=tokens))
        assert sum(map(len, pieces)) == len(many)
        widths = [max(row.length for row in some) for some in pieces]
        assert all((len(some) - 1) * width < tokens for some, width in zip(pieces, widths, strict=True))
