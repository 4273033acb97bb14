"""The fast objective equals the plain one, on every architecture; many edits equal one at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.locate_then_edit.objective import ForwardFactory, Losses, Objective, Request, norm_penalty
from kg_edit.locate_then_edit.plain_forward import PlainForward
from kg_edit.locate_then_edit.states import subject_states
from kg_edit.locate_then_edit.tail_forward import TailForward
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_cache import SharedContexts
from kg_edit.models.prompts import encode
from tests.everyday import keep_first
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import CONFIGS, tiny

CONTEXTS = ("{}", "The quick brown fox. {}", "Where does it flow? I. {}")
EDITS = (("{} plays for", "LeBron James", "Los Angeles Lakers"), ("In {}, the capital is", "France", "Rome"))
LAYER = 1
PENALTY = partial(norm_penalty, weight=0.5)


def request(model: LanguageModel, prompt: str, subject: str, target: str) -> Request:
    """An edit's prompts in three contexts."""
    rewrites = tuple(
        encode(model.tokenizer, prompt, subject=subject, target=target, context=context) for context in CONTEXTS
    )
    return Request(rewrites=rewrites, essence=encode(model.tokenizer, "{} is a", subject=subject))


def objective(model: LanguageModel, requests: list[Request], forward: ForwardFactory) -> Objective:
    """ROME's loss in layer 1."""
    return Objective(model, LAYER, requests, kl_weight=0.5, penalty=PENALTY, forward=forward)


def change(model: LanguageModel, edits: int) -> Tensor:
    """A change that is large enough to move the loss."""
    return torch.randn(edits, model.width, generator=torch.Generator().manual_seed(1)).requires_grad_()


def losses_and_gradient(target: Objective, at: Tensor) -> tuple[Losses, Tensor]:
    """The losses and d total / d change."""
    losses = target(at)
    (gradient,) = torch.autograd.grad(losses.total.sum(), at)
    return losses, gradient


@pytest.mark.parametrize("bos", [False, True], ids=["no-bos", "bos"])
@pytest.mark.parametrize("family", CONFIGS)
def test_fast_equals_plain(family: str, bos: bool) -> None:
    model = tiny(family, bos=bos)
    requests = [request(model, *edit) for edit in EDITS]
    fast, plain = (objective(model, requests, forward) for forward in (TailForward, PlainForward))
    at = change(model, len(EDITS))
    for name in ("value", "bare_key", "mean_key"):
        torch.testing.assert_close(getattr(fast, name), getattr(plain, name), rtol=1e-5, atol=1e-5)
    (fast_losses, fast_gradient), (plain_losses, plain_gradient) = (
        losses_and_gradient(way, at) for way in (fast, plain)
    )
    for name in ("nll", "kl", "penalty", "total"):
        torch.testing.assert_close(getattr(fast_losses, name), getattr(plain_losses, name), rtol=1e-5, atol=1e-5)
    assert (fast_gradient - plain_gradient).norm() < 1e-5 * plain_gradient.norm()
    assert plain_gradient.abs().max() > 1e-3, "the test must be able to fail"


@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_the_value_is_the_modules_own_output(family: str) -> None:
    """Not what Falcon makes of it, which adds the attention's output in place."""
    model, seen = tiny(family), list[Tensor]()
    asked = request(model, *EDITS[0])
    row = asked.rewrites[0]
    handle = model.down_projection(LAYER).register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    with torch.no_grad():
        model.model(torch.tensor([row.ids]))
    handle.remove()
    value = seen[0].reshape(len(row.ids), -1)[row.edited_at]
    for forward in (TailForward, PlainForward):
        torch.testing.assert_close(objective(model, [asked], forward).value[0], value, rtol=1e-5, atol=1e-5)
    _, states = subject_states(model, [row], layer=LAYER, last=LAYER, site="value")
    torch.testing.assert_close(states[0], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", CONFIGS)
def test_shared_contexts_change_nothing(family: str) -> None:
    """Rows of unlike length have padding between context and prompt, which a short window must not count."""
    model, contexts = tiny(family), ("{}", "The quick brown fox. {}", "Paris. {}")
    edits = (("{}", "France", "Rome"), *EDITS)
    rewrites = [
        tuple(encode(model.tokenizer, p, subject=s, target=t, context=context) for context in contexts)
        for p, s, t in edits
    ]
    requests = [Request(rewrites=rows) for rows in rewrites]
    shared = partial(TailForward, contexts=SharedContexts.of(model, contexts))
    fast, plain = (Objective(model, LAYER, requests, kl_weight=0.0, forward=way) for way in (shared, PlainForward))
    torch.testing.assert_close(fast.mean_key, plain.mean_key, rtol=1e-5, atol=1e-5)
    at = change(model, len(edits))
    torch.testing.assert_close(fast(at).total, plain(at).total, rtol=1e-5, atol=1e-5)


def test_fast_equals_plain_on_the_real_model(smollm2: LanguageModel) -> None:
    requests = [request(smollm2, *EDITS[0])]
    fast, plain = (Objective(smollm2, 6, requests, kl_weight=0.06, forward=f) for f in (TailForward, PlainForward))
    at = change(smollm2, 1)
    (fast_losses, fast_gradient), (plain_losses, plain_gradient) = (
        losses_and_gradient(way, at) for way in (fast, plain)
    )
    torch.testing.assert_close(fast_losses.total, plain_losses.total, rtol=1e-5, atol=1e-5)
    assert (fast_gradient - plain_gradient).norm() < 1e-5 * plain_gradient.norm()


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "falcon-alibi"])
def test_many_edits_at_once_equal_one_at_a_time(family: str) -> None:
    model = tiny(family)
    requests = [request(model, *edit) for edit in EDITS]
    at = change(model, len(EDITS))
    together, gradient = losses_and_gradient(objective(model, requests, TailForward), at)
    for index, alone in enumerate(requests):
        losses, own = losses_and_gradient(objective(model, [alone], TailForward), at[index : index + 1])
        torch.testing.assert_close(losses.total[0], together.total[index], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(own[0], gradient[index], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", keep_first([1, 12, 512], keep=2))
@pytest.mark.parametrize("done", [{0}, {1, 2}, {0, 1, 2, 3}])
def test_edits_that_are_done_leave_and_change_nothing(tokens: int, done: set[int]) -> None:
    """Also in groups of one row, and where groups are cut."""
    model = tiny("llama")
    requests = [request(model, *edit) for edit in (*EDITS, *EDITS)]
    found = Objective(model, LAYER, requests, kl_weight=0.5, penalty=PENALTY, tokens=tokens)
    at = change(model, len(requests))
    losses, gradient = found.gradient(at)
    whole, whole_gradient = losses_and_gradient(objective(model, requests, PlainForward), at)
    torch.testing.assert_close(losses.total, whole.total.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, whole_gradient, rtol=1e-4, atol=1e-5)
    found.drop(done)
    left = [edit for edit in range(len(requests)) if edit not in done]
    losses, gradient = found.gradient(at)
    torch.testing.assert_close(losses.total[left], whole.total.detach()[left], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient[left], whole_gradient[left], rtol=1e-4, atol=1e-5)


def test_the_last_layer_can_be_edited() -> None:
    model = tiny("llama")
    requests = [request(model, *EDITS[0])]
    fast, plain = (Objective(model, 3, requests, kl_weight=0.5, forward=f) for f in (TailForward, PlainForward))
    at = change(model, 1)
    torch.testing.assert_close(fast(at).total, plain(at).total, rtol=1e-5, atol=1e-5)


def test_nll_is_a_mean_of_means_and_kl_is_edited_from_unedited() -> None:
    """Against the definitions, written out."""
    model = tiny("gpt2")
    wanted = request(model, *EDITS[0])
    found = objective(model, [wanted], TailForward)
    at = change(model, 1)
    forward = PlainForward(model, LAYER, [*wanted.rewrites, wanted.essence])
    edited = forward.logits(at.expand(4, -1)).log_softmax(-1)
    rows = [len(row.target_ids) for row in wanted.rewrites]
    per_row = [
        -log_p[torch.arange(len(log_p)), list(row.target_ids)].mean()
        for log_p, row in zip(edited[:-1].split(rows), wanted.rewrites, strict=True)
    ]
    torch.testing.assert_close(found(at).nll[0], torch.stack(per_row).mean())
    clean = forward.logits()[-1].log_softmax(-1)
    kl = torch.nn.functional.kl_div(clean, edited[-1], log_target=True, reduction="sum")
    torch.testing.assert_close(found(at).kl[0], kl)


def test_no_change_costs_no_kl_and_no_penalty() -> None:
    model = tiny("llama")
    losses = objective(model, [request(model, *EDITS[0])], TailForward)(torch.zeros(1, model.width))
    assert losses.kl.abs().max() < 1e-6
    assert losses.penalty.item() == 0


def test_greedy_says_whether_all_of_a_target_comes_first() -> None:
    """Against the likeliest tokens of the plain forward; a target that is right in its first token alone is wrong."""
    model = tiny("llama")
    prompt = encode(model.tokenizer, "{} originates from", subject="Spike Hughes", target="London")
    rows = list(prompt.ids[: prompt.target_start])
    with torch.no_grad():
        for _ in range(2):
            rows.append(int(model.model(torch.tensor([rows])).logits[0, -1].argmax()))
    right = replace(prompt, ids=tuple(rows))
    wrong = replace(prompt, ids=(*rows[:-1], (rows[-1] + 1) % 400))
    found = objective(model, [Request(rewrites=(one,)) for one in (wrong, right)], TailForward)
    assert found.greedy(torch.zeros(2, model.width)).tolist() == [False, True]
    far = 100 * change(model, 2)
    plain = objective(model, [Request(rewrites=(one,)) for one in (wrong, right)], PlainForward)
    assert found.greedy(far).tolist() == plain.greedy(far).tolist()


@pytest.mark.parametrize("method, layer", [("memoir", 3), ("memoe", 3), ("memoe", 2)])
def test_a_module_beside_a_late_block_sees_whole_rows(method: str, layer: int) -> None:
    """It decides by the tokens so far, so the last MLP must not run at the read positions alone.

    MEMoE reads the tokens themselves, which are not embedded again at every step.
    """
    model, own = tiny("llama"), QUICK[method] | {"layer": layer, "learning_rate": 0.1}
    edits = [Edit(id=s, subject=s, prompt=p, target_new=t) for p, s, t in EDITS]
    patch = find_method(method).on(model, settings=own).edit(edits)
    requests, at = [request(model, *edit) for edit in EDITS], change(model, len(EDITS))
    without = objective(model, requests, TailForward)(at).nll
    with patch.applied(model):
        fast, plain = (
            Objective(model, LAYER, requests, kl_weight=0.5, forward=forward, tokens=12)  # in several passes
            for forward in (TailForward, PlainForward)
        )
        (fast_losses, fast_gradient), (plain_losses, plain_gradient) = (
            losses_and_gradient(way, at) for way in (fast, plain)
        )
    assert (plain_losses.nll - without).abs().max() > 1e-2, "the test must be able to fail"
    torch.testing.assert_close(fast_losses.total, plain_losses.total, rtol=1e-5, atol=1e-5)
    assert (fast_gradient - plain_gradient).norm() < 1e-5 * plain_gradient.norm()
