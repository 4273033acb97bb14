"""The loss: its terms by their definitions, fast equals plain on every architecture, many edits equal one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.engine.fast_loss import Engine, TargetRow, find_engine
from kg_edit.engine.passes import PassLimit, group_into_passes
from kg_edit.locate_then_edit.objective import (
    FurtherRow,
    Losses,
    Objective,
    PlainForward,
    Request,
    SoftTarget,
    norm_penalty,
)
from kg_edit.locate_then_edit.states import subject_states
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode
from tests.everyday import keep_first
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import KINDS_OF_FAMILY, families, tiny

CONTEXTS = ("{}", "The quick brown fox. {}", "Where does it flow? I. {}")
EDITS = (("{} plays for", "LeBron James", "Los Angeles Lakers"), ("In {}, the capital is", "France", "Rome"))
FURTHER = (("The country of the team of {} is", "the United States of America"), ("Who pays {}? It is", "Jeanie Buss"))
TERMS = ("nll", "kl", "further", "penalty", "total")
LAYER = 1
PENALTY = partial(norm_penalty, weight=0.5)


def request(model: LanguageModel, prompt: str, subject: str, target: str) -> Request:
    """An edit's prompts in three contexts, and two further rows: one with a text as its target, one with a soft one."""
    encoded = partial(encode, model.tokenizer, subject=subject)
    text, soft = (encoded(question, target=answer) for question, answer in FURTHER)
    size, drawn = len(soft.target_ids), torch.Generator().manual_seed(len(soft.target_ids))
    shares = torch.rand(size, 3, generator=drawn)
    tokens = torch.randint(len(model.tokenizer), (size, 3), generator=drawn)
    soft_target = SoftTarget(tokens=tokens, probabilities=shares / shares.sum(-1, keepdim=True))
    return Request(
        rewrites=tuple(encoded(prompt, target=target, context=context) for context in CONTEXTS),
        essence=encoded("{} is a"),
        further=(FurtherRow(prompt=text, weight=0.3), FurtherRow(prompt=soft, weight=0.7, soft_target=soft_target)),
    )


def engine_of(model: LanguageModel, contexts: Sequence[str] = (), *, layer: int = LAYER, tokens: int = 512) -> Engine:
    found = find_engine(model, layer, contexts)
    assert found is not None
    return replace(found, limit=PassLimit(tokens))


def plain_loss(model: LanguageModel, requests: list[Request]) -> Objective:
    """ROME's loss in layer 1."""
    return Objective(model, LAYER, requests, kl_weight=0.5, penalty=PENALTY)


def fast_loss(model: LanguageModel, requests: list[Request], *, tokens: int = 512) -> Objective:
    engine = engine_of(model, tokens=tokens)
    return Objective(model, LAYER, requests, kl_weight=0.5, penalty=PENALTY, engine=engine)


def change(model: LanguageModel, edits: int) -> Tensor:
    """A change that is large enough to move the loss."""
    return torch.randn(edits, model.width, generator=torch.Generator().manual_seed(1)).requires_grad_()


def losses_and_gradient(target: Objective, at: Tensor) -> tuple[Losses, Tensor]:
    """The losses and d total / d change."""
    losses = target(at)
    (gradient,) = torch.autograd.grad(losses.total.sum(), at)
    return losses, gradient


def assert_alike(fast: Objective, plain: Objective, at: Tensor, *, tolerance: float = 1e-5) -> Losses:
    """Compare the losses and the gradients of two objectives; return the losses."""
    (losses, gradient), (plain_losses, plain_gradient) = (losses_and_gradient(way, at) for way in (fast, plain))
    for name in TERMS:
        torch.testing.assert_close(getattr(losses, name), getattr(plain_losses, name), rtol=1e-5, atol=1e-5)
    assert (gradient - plain_gradient).norm() < tolerance * plain_gradient.norm()
    assert plain_gradient.abs().max() > 1e-3, "the test must be able to fail"
    return losses


@pytest.mark.parametrize("bos", keep_first([False, True]), ids=["no-bos", "bos"])
@pytest.mark.parametrize("family", families((*KINDS_OF_FAMILY, "bloom", "falcon-alibi", "qwen3_5_text")))
def test_fast_forward_equals_plain(family: str, bos: bool) -> None:
    model = tiny(family, bos=bos)
    requests = [request(model, *edit) for edit in EDITS]
    fast, plain = fast_loss(model, requests), plain_loss(model, requests)
    for name in ("value", "bare_key", "mean_key"):
        tensor, expected = getattr(fast, name), getattr(plain, name)
        assert (tensor - expected).norm() <= 1e-5 * expected.norm(), name
    # The recurrent blocks of Qwen3.5 compute in float32, whatever the model's dtype, and their sums differ with the
    # padding. With every float32 of their code replaced by float64, the gradients differ by 2e-14.
    # opt-350m, which normalises after its blocks, differs by 4e-5 on some processors, and in float64 by 1e-15.
    tolerance = 1e-4 if family in ("qwen3_5_text", "opt-350m") else 1e-5
    assert_alike(fast, plain, change(model, len(EDITS)), tolerance=tolerance)


@pytest.mark.slow
def test_fast_forward_equals_plain_on_the_real_model(smollm2: LanguageModel) -> None:
    requests = [request(smollm2, *EDITS[0])]
    engines = (find_engine(smollm2, 6), None)
    fast, plain = (Objective(smollm2, 6, requests, kl_weight=0.06, engine=engine) for engine in engines)
    assert_alike(fast, plain, change(smollm2, 1))


def test_fast_forward_equals_plain_in_the_last_layer() -> None:
    model = tiny("llama")
    requests = [request(model, *EDITS[0])]
    engines = (engine_of(model, layer=3), None)
    fast, plain = (Objective(model, 3, requests, kl_weight=0.5, engine=engine) for engine in engines)
    assert_alike(fast, plain, change(model, 1))


@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_value_is_the_modules_own_output(family: str) -> None:
    """Not what Falcon makes of it, which adds the attention's output in place."""
    model, seen = tiny(family), list[Tensor]()
    edit = request(model, *EDITS[0])
    row = edit.rewrites[0]
    watch = model.down_projection(LAYER).register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    with watch, torch.no_grad():
        model.model(torch.tensor([row.ids]))
    value = seen[0].reshape(len(row.ids), -1)[row.edited_at]
    _, states = subject_states(model, [row], layer=LAYER, last=LAYER, site="value")
    values = [loss(model, [edit]).value[0] for loss in (fast_loss, plain_loss)]
    for computed in (*values, states[0]):
        torch.testing.assert_close(computed, value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", families())
def test_shared_contexts_change_no_loss(family: str) -> None:
    """Rows of unlike length have padding between context and prompt, which a short window must not count."""
    model, contexts = tiny(family), ("{}", "The quick brown fox. {}", "Paris. {}")
    edits = (("{}", "France", "Rome"), *EDITS)
    rewrites = [
        tuple(encode(model.tokenizer, p, subject=s, target=t, context=context) for context in contexts)
        for p, s, t in edits
    ]
    requests = [Request(rewrites=rows) for rows in rewrites]
    engines = (engine_of(model, contexts), None)
    fast, plain = (Objective(model, LAYER, requests, kl_weight=0.0, engine=engine) for engine in engines)
    torch.testing.assert_close(fast.mean_key, plain.mean_key, rtol=1e-5, atol=1e-5)
    at = change(model, len(edits))
    torch.testing.assert_close(fast(at).total, plain(at).total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "falcon-alibi"])
def test_many_edits_equal_one_at_a_time(family: str) -> None:
    model = tiny(family)
    requests = [request(model, *edit) for edit in EDITS]
    at = change(model, len(EDITS))
    together, gradient = losses_and_gradient(fast_loss(model, requests), at)
    for index, alone in enumerate(requests):
        losses, single = losses_and_gradient(fast_loss(model, [alone]), at[index : index + 1])
        torch.testing.assert_close(losses.total[0], together.total[index], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(single[0], gradient[index], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", keep_first([12, 1, 512]))
@pytest.mark.parametrize("done", keep_first([{1, 2}, {0}, {0, 1, 2, 3}]))
def test_finished_edits_are_dropped_and_change_no_other(tokens: int, done: set[int]) -> None:
    """Also in passes of one row, and where passes are cut."""
    model = tiny("llama")
    requests = [request(model, *edit) for edit in (*EDITS, *EDITS)]
    fast, at = fast_loss(model, requests, tokens=tokens), change(model, len(requests))
    expected, expected_gradient = losses_and_gradient(plain_loss(model, requests), at)
    for remaining in ([0, 1, 2, 3], [edit for edit in range(4) if edit not in done]):
        losses, gradient = fast.gradient(at)
        torch.testing.assert_close(losses.total[remaining], expected.total.detach()[remaining], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient[remaining], expected_gradient[remaining], rtol=1e-4, atol=1e-5)
        fast.drop(done)


def test_losses_are_their_definitions() -> None:
    """Each term written out, from the logits of the plain forward."""
    model = tiny("gpt2")
    edit, at = request(model, *EDITS[0]), change(model, 1)
    assert edit.essence is not None
    losses = fast_loss(model, [edit])(at)
    text, soft = edit.further
    rows = [*edit.rewrites, edit.essence, text.prompt, soft.prompt]
    forward = PlainForward(model, LAYER, rows)
    sizes = [max(1, len(row.target_ids)) for row in rows]
    *nlls, essence, of_text, of_soft = forward.logits(at.expand(len(rows), -1)).log_softmax(-1).split(sizes)

    def nll(log_p: Tensor, targets: tuple[int, ...]) -> Tensor:
        return -log_p[torch.arange(len(targets)), list(targets)].mean()

    pairs = zip(nlls, edit.rewrites, strict=True)
    torch.testing.assert_close(losses.nll[0], torch.stack([nll(log_p, row.target_ids) for log_p, row in pairs]).mean())
    clean = forward.logits().split(sizes)[len(edit.rewrites)].log_softmax(-1)
    kl = torch.nn.functional.kl_div(clean, essence, log_target=True, reduction="sum")  # KL(edited || unedited)
    torch.testing.assert_close(losses.kl[0], kl)
    assert soft.soft_target is not None
    cross_entropy = -(soft.soft_target.probabilities * of_soft.gather(-1, soft.soft_target.tokens)).sum(-1).mean()
    torch.testing.assert_close(losses.further[0], 0.3 * nll(of_text, text.prompt.target_ids) + 0.7 * cross_entropy)
    value = forward.values[0].norm()
    torch.testing.assert_close(losses.penalty[0], 0.5 * at.norm() / value**2)
    torch.testing.assert_close(losses.total, losses.nll + 0.5 * losses.kl + losses.further + losses.penalty)

    still = fast_loss(model, [edit])(torch.zeros(1, model.width))
    assert still.kl.abs().max() < 1e-6 and still.penalty.item() == 0, "no change has no such loss"


def test_missed_tokens_are_those_that_are_not_the_likeliest() -> None:
    """Against the likeliest tokens of the plain forward; a target that is right in its first token alone is wrong."""
    model = tiny("llama")
    prompt = encode(model.tokenizer, "{} originates from", subject="Spike Hughes", target="London")
    rows = list(prompt.ids[: prompt.target_start])
    with torch.no_grad():
        for _ in range(2):
            rows.append(int(model.model(torch.tensor([rows])).logits[0, -1].argmax()))
    right = replace(prompt, ids=tuple(rows))
    wrong = replace(prompt, ids=(*rows[:-1], (rows[-1] + 1) % 400))
    requests = [Request(rewrites=(encoded,)) for encoded in (wrong, right)]
    fast, plain = fast_loss(model, requests), plain_loss(model, requests)
    assert [bool(count) for count in missed(fast, torch.zeros(2, model.width), margin=0.0)] == [True, False]
    far = 100 * change(model, 2)
    assert missed(fast, far, margin=0.0) == missed(plain, far, margin=0.0)
    assert missed(fast, far, margin=99.0) == [2, 2], "a margin that no token has"
    assert fast.gradient(far)[0].missed is None


def missed(loss: Objective, at: Tensor, *, margin: float) -> list[float]:
    """How many target tokens of each edit are not the likeliest by the margin."""
    count = loss.gradient(at, margin=margin)[0].missed
    assert count is not None
    return list(count.tolist())


@pytest.mark.slow
@pytest.mark.parametrize("method, layer", [("memoir", 3), ("memoe", 3), ("memoe", 2)])
def test_adapter_of_a_late_block_gets_whole_rows(method: str, layer: int) -> None:
    """It decides by the tokens so far, so the last MLP must not run at the read positions alone.

    MEMoE reads the tokens themselves, which are not embedded again at every step.
    """
    model, settings = tiny("llama"), QUICK[method] | {"layer": layer, "learning_rate": 0.1}
    edits = [Edit(id=s, subject=s, prompt=p, target_new=t) for p, s, t in EDITS]
    patch = find_method(method).on(model, settings=settings).edit(edits)
    requests, at = [request(model, *edit) for edit in EDITS], change(model, len(EDITS))
    without = plain_loss(model, requests)(at).nll
    with patch.applied(model):  # in several passes
        losses = assert_alike(fast_loss(model, requests, tokens=12), plain_loss(model, requests), at)
    assert (losses.nll - without).abs().max() > 1e-2, "the test must be able to fail"


def test_few_rows_share_a_pass_and_many_of_unlike_length_do_not() -> None:
    edits = [request(tiny("llama"), *edit) for edit in EDITS]
    few = [TargetRow(edit=0, prompt=row.prompt) for edit in edits for row in edit.further]
    few.append(TargetRow(edit=0, prompt=edits[0].rewrites[0], part="kl"))
    lengths = {row.length for row in few}
    assert len(lengths) > 1
    (together,) = group_into_passes(few, PassLimit(512))
    assert len(together) == len(few) and [row.part for row in together] == ["kl"] + ["nll"] * (len(few) - 1)
    many = [row for row in few for _ in range(100)]
    apart = list(group_into_passes(many, PassLimit(10_000)))
    assert [len({row.length for row in batch}) for batch in apart] == [1] * len(lengths)
    for tokens in (1, 40):
        pieces = list(group_into_passes(many, PassLimit(tokens)))
        assert sum(map(len, pieces)) == len(many)
        widths = [max(row.length for row in batch) for batch in pieces]
        assert all((len(batch) - 1) * width < tokens for batch, width in zip(pieces, widths, strict=True))
