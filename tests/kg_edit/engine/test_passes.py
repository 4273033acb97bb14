"""How rows are put into passes: by the device's memory, and in halves if it runs out. The losses are the same."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import inf

import pytest
import torch
from torch import Tensor

from kg_edit.engine import passes
from kg_edit.engine.fast_loss import Engine, TargetRow, find_engine
from kg_edit.engine.passes import PassLimit, padded_tokens, pass_limit
from kg_edit.engine.prefix_cache import SharedContexts
from kg_edit.engine.tail_forward import TailForward
from kg_edit.locate_then_edit.objective import Objective, Request
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from tests.kg_edit.tiny import tiny

LAYER = 1
CONTEXTS = ("{}", "The quick brown fox. {}")
SUBJECTS = {"LeBron James": "the Los Angeles Lakers of 1999", "France": "Rome", "Spike Hughes": "Paris in Texas"}


def requests(model: LanguageModel) -> list[Request]:
    """Three edits, whose targets have different lengths."""

    def of(subject: str, target: str) -> Request:
        rows = [model.encode_fact("{} is from", subject=subject, target=target, context=text) for text in CONTEXTS]
        return Request(rewrites=tuple(rows), essence=model.encode_fact("{} is a", subject=subject))

    return [of(*pair) for pair in SUBJECTS.items()]


def test_an_accelerators_memory_decides_how_many_tokens_a_pass_has(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = pass_limit(tiny("llama"), LAYER)
    assert on_cpu == PassLimit(512)
    monkeypatch.setattr(passes, "pass_megabytes", lambda device: 1000.0)
    model = replace(tiny("llama"), model=copy.deepcopy(tiny("llama").model).to("meta"))
    limit = pass_limit(model, LAYER)
    assert limit.padding == inf
    assert limit.tokens > 10 * on_cpu.tokens
    assert pass_limit(model, LAYER, 250.0).tokens == pytest.approx(limit.tokens / 4), "--memory is less"
    assert pass_limit(model, LAYER, 9000.0).tokens == limit.tokens, "--memory is more than there is"
    monkeypatch.setattr(passes, "pass_megabytes", lambda device: 40_000.0)
    assert pass_limit(model, LAYER).tokens == pytest.approx(2 * limit.tokens), "more would only take memory"
    rows = [
        TargetRow(edit=edit, prompt=row)
        for edit, request in enumerate(requests(model))
        for row in request.rewrites
        for _ in range(50)
    ]
    assert len({row.length for row in rows}) == 3
    (together,) = passes.group_into_passes(rows, limit)
    assert len(together) == len(rows) and padded_tokens(together) > 512
    assert len(list(passes.group_into_passes(rows, on_cpu))) > 1


@pytest.mark.parametrize("tokens", [19, 25, 64, 1e9])
def test_no_pass_has_more_tokens_than_its_limit(tokens: float) -> None:
    model = tiny("llama")
    prompt = requests(model)[0].rewrites[0]
    rows = [TargetRow(edit=edit, prompt=prompt) for edit in range(7)]
    groups = list(passes.group_into_passes(rows, PassLimit(tokens)))
    assert sum(len(group) for group in groups) == len(rows)
    for group in groups:
        assert padded_tokens(group) <= tokens or len(group) == 1


def test_limit_counts_whole_rows_where_they_run() -> None:
    """In a recurrent model the tokens before the subject run too."""
    model, sizes = tiny("lfm2"), list[int]()
    found = find_engine(model, LAYER)
    assert found is not None

    def note(_: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        sizes.append(args[0].shape[0] * args[0].shape[1])

    loss = Objective(model, LAYER, requests(model), kl_weight=0.1, engine=replace(found, limit=PassLimit(64)))
    with model.block(LAYER).register_forward_pre_hook(note):
        loss.gradient(torch.zeros(len(SUBJECTS), model.width))
    assert len(sizes) > 1 and max(sizes) <= 64


def test_contexts_of_many_edits_are_stored_once() -> None:
    """Their keys and values, of which each row had a copy; the losses are the same, also after edits have ended."""
    model, limit, long = tiny("llama"), PassLimit(4096, padding=inf), "The quick brown fox jumps over the lazy dog. "
    contexts = ("{}", long + "{}", long + long + "{}")
    edits = [
        Request(rewrites=tuple(model.encode_fact("{} is", subject=subject, target="Rome", context=c) for c in contexts))
        for subject in [*SUBJECTS, *(f"{subject} {number}" for subject in SUBJECTS for number in range(3))]
    ]
    change = torch.randn(len(edits), model.width, generator=torch.Generator().manual_seed(0))
    shared, sizes, losses = SharedContexts.of(model, contexts), list[int](), list[Tensor]()
    for forward in (TailForward, partial(TailForward, contexts=shared)):
        objective = Objective(model, LAYER, edits, kl_weight=0.0, engine=Engine(forward=forward, limit=limit))
        assert objective._fast is not None
        (only_pass,) = objective._fast._passes
        prefix = only_pass.forward._prefix  # type: ignore[attr-defined]
        sizes.append(sum(state.nbytes for layer in prefix.layers for state in layer))
        losses.append(objective.gradient(change)[0].nll)
        objective.drop(range(1, len(edits)))
        losses.append(objective.gradient(change)[0].nll[:1])
    assert sizes[1] < sizes[0] / 4
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses[3], losses[1], rtol=1e-5, atol=1e-5)


class Tight(TailForward):
    """A forward whose memory has room for ``most`` rows with a gradient; ``refused`` are the sizes of larger ones."""

    most, refused = 2, list[int]()

    def logits(self, change: Tensor | None = None) -> Tensor:
        if change is not None and len(change) > self.most:
            self.refused.append(len(change))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return super().logits(change)


def test_passes_are_halved_when_memory_runs_out_and_stay_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model, limit = tiny("llama"), PassLimit(4096, padding=inf)
    edits, start = requests(model), torch.zeros(len(SUBJECTS), model.width)
    change = torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    plenty = Objective(model, LAYER, edits, kl_weight=0.5, engine=Engine(forward=TailForward, limit=limit))
    monkeypatch.setattr(Tight, "refused", refused := [])
    tight = Objective(model, LAYER, edits, kl_weight=0.5, engine=Engine(forward=Tight, limit=limit))
    expected, halved = plenty.gradient(change, margin=0.0), tight.gradient(change, margin=0.0)
    assert refused[0] == 9, "all rows of a step run in one pass"
    assert len(refused) > 1
    for name in ("nll", "kl", "total", "missed"):
        torch.testing.assert_close(getattr(halved[0], name), getattr(expected[0], name), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(halved[1], expected[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(tight(change).total, expected[0].total, rtol=1e-5, atol=1e-5)
    for name in ("value", "bare_key", "mean_key"):
        torch.testing.assert_close(getattr(tight, name), getattr(plenty, name))

    refused.clear()
    tight.drop([0])
    tight.gradient(change)
    assert refused == [], "the descent remembers it"


@pytest.mark.slow
def test_one_row_that_does_not_fit_is_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tight, "most", 0)
    with pytest.raises(torch.OutOfMemoryError, match="9 GiB"):
        Objective(tiny("llama"), LAYER, requests(tiny("llama")), kl_weight=0.5, engine=Engine(forward=Tight))(
            torch.zeros(3, 64)
        )


def test_another_error_is_no_lack_of_memory() -> None:
    class Broken(TailForward):
        def __init__(self, model: LanguageModel, layer: int, rows: Sequence[Prompt]) -> None:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        Objective(tiny("llama"), LAYER, requests(tiny("llama")), kl_weight=0.5, engine=Engine(forward=Broken))
