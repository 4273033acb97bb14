"""Many edits computed at once are the edits computed one by one; one that fails takes none with it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.engine import prefix_cache
from kg_edit.engine.passes import pass_limit
from kg_edit.engine.prefix_cache import SharedContexts, run_prefix
from kg_edit.locate_then_edit.descent import descend
from kg_edit.locate_then_edit.objective import Request
from kg_edit.methods import value_method
from kg_edit.methods.rome import method as rome_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode
from kg_edit.patches.base import Patch
from tests.everyday import keep_first
from tests.kg_edit.methods.test_methods import CONTEXTS, EDIT, SECOND, delta, method, value_at
from tests.kg_edit.tiny import families, tiny

THIRD = Edit(id="3", subject="LeBron", prompt="Here {} is of", target_new="Los Angeles")
EDITS = (EDIT, SECOND, THIRD, SECOND)


@pytest.mark.parametrize("name", keep_first(["glame", "rome"]))
@pytest.mark.parametrize("family", families(("llama",)))
def test_batch_equals_one_edit_at_a_time(name: str, family: str) -> None:
    """Invariant 5, with edits of different lengths, one of them twice, of which some are done before others."""
    model = tiny(family)
    edits = EDITS if name == "rome" else EDITS[:2]
    losses = [losses_of(method(name, model, stop_below=-1.0).edit([edit])) for edit in edits]
    before, after = min(losses, key=lambda ends: ends[1])
    chosen = method(name, model, stop_below=(before + after) / 2)  # the quickest edit is done halfway
    for edit, patch in zip(edits, chosen.edit_each(edits), strict=True):
        assert isinstance(patch, Patch)
        alone = chosen.edit([edit])
        assert (delta(patch) - delta(alone)).norm() <= 1e-4 * delta(alone).norm()  # both 0 if done at once
        assert patch.provenance["edits"][0]["steps"] == alone.provenance["edits"][0]["steps"]


def losses_of(patch: Patch) -> tuple[float, float]:
    (record,) = patch.provenance["edits"]
    return record["loss_before"], record["loss_after"]


def test_edit_with_a_nan_loss_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = method("rome", tiny("llama"))
    original = chosen.propose

    def poisoned(edits: Sequence[Edit], values: torch.Tensor) -> Any:
        delta, notes = original(edits, values)
        delta.change().data[edits.index(SECOND)] = float("nan")
        return delta, notes

    monkeypatch.setattr(chosen, "propose", poisoned)
    first, failed = chosen.edit_each([EDIT, SECOND])
    assert isinstance(failed, Exception) and "not finite" in str(failed)
    monkeypatch.undo()
    assert isinstance(first, Patch)
    torch.testing.assert_close(delta(first), delta(chosen.edit([EDIT])), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bos", [False, True], ids=["no-bos", "bos"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "falcon-alibi"])
def test_shared_contexts_give_the_same_keys_and_values(family: str, bos: bool) -> None:
    model = tiny(family, bos=bos)
    rows = [row.ids[: row.edited_at] for edit in EDITS[:3] for row in prompts(model, edit)]
    prefix, plain = SharedContexts.of(model, CONTEXTS).prefix(model, rows), run_prefix(model, rows)
    assert (prefix.shared is not None) == (family in ("llama", "gpt2")), "stored once a context"
    shared = prefix.expand()
    assert torch.equal(shared.lengths, plain.lengths)
    for (keys, values), (plain_keys, plain_values) in zip(shared.layers, plain.layers, strict=True):
        for row in range(len(rows)):
            mask, plain_mask = shared.mask[row].bool(), plain.mask[row].bool()
            torch.testing.assert_close(keys[row][:, mask], plain_keys[row][:, plain_mask], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(values[row][:, mask], plain_values[row][:, plain_mask], rtol=1e-5, atol=1e-5)


def prompts(model: LanguageModel, edit: Edit) -> list[Prompt]:
    return [
        encode(model.tokenizer, edit.prompt, subject=edit.subject, target=edit.target_new, context=context)
        for context in CONTEXTS
    ]


@pytest.mark.slow
def test_memory_limit_changes_the_passes_but_no_patch() -> None:
    model = tiny("llama")
    assert pass_limit(model, 1).tokens == 512
    assert 32 <= pass_limit(model, 1, 1.0).tokens < pass_limit(model, 0, 4.0).tokens < 512
    chosen, frugal = method("rome", model), method("rome", model)
    frugal.memory = 0.001
    for one, other in zip(chosen.edit_each(EDITS), frugal.edit_each(EDITS), strict=True):
        assert isinstance(one, Patch) and isinstance(other, Patch)
        # other passes round in another way
        assert (delta(one) - delta(other)).norm() < 1e-4 * delta(one).norm()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["glame", "rome"])
def test_memory_limit_changes_the_descents_but_no_patch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand edits of one call would keep gigabytes of keys, values and R-GNNs."""
    model, sizes, original = tiny("llama"), list[int](), descend

    def counted(loss: Any, delta: Any, stops: Any) -> Any:
        sizes.append(len(loss.value))
        return original(loss, delta, stops)

    monkeypatch.setattr(rome_method, "descend", counted)
    chosen, frugal = method(name, model), method(name, model)
    frugal.memory = 0.001
    pairs = list(zip(chosen.edit_each(EDITS[:2]), frugal.edit_each(EDITS[:2]), strict=True))
    assert sizes == [2, 1, 1]
    for one, other in pairs:
        assert isinstance(one, Patch) and isinstance(other, Patch)
        assert (delta(one) - delta(other)).norm() < 1e-4 * delta(one).norm()


@pytest.mark.parametrize("shares", keep_first([True, False]))
def test_a_descent_has_the_edits_whose_keys_and_values_fit(shares: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contexts take no room of every edit, as they are stored once; with ALiBi each row has its own."""
    for module in (value_method, prefix_cache):
        monkeypatch.setattr(module, "mask_decides", lambda *_: shares)
    model, long = tiny("gpt2"), "The quick brown fox jumps over the lazy dog. " * 2
    chosen = method("rome", model)
    chosen._given_contexts = ("{}", long + "{}", long + long + "{}")
    edits = [Edit(subject=f"LeBron {number}", prompt="Here {} is of", target_new="Rome") for number in range(100)]
    requests = [Request.of(model, edit, chosen.contexts) for edit in edits]
    chosen.memory = 2.0
    first, *_ = chosen.portions(requests)
    objective = chosen.objective(model, edits[first], requests[first])
    prefixes = [part.forward._prefix for part in objective._fast._passes]  # type: ignore[union-attr]
    starts = {id(prefix.shared.prefix): prefix.shared.prefix for prefix in prefixes if prefix.shared}
    stored = sum(state.nbytes for prefix in [*prefixes, *starts.values()] for pair in prefix.layers for state in pair)
    assert 0.5 < stored / 2e6 < 1


@pytest.mark.parametrize("name", ["rome", "glame"])
def test_model_in_bfloat16_is_solved_in_float32(name: str) -> None:
    """The value moves as far as it should."""
    exact = tiny("llama")
    half = LanguageModel.wrap(
        copy.deepcopy(exact.model).to(torch.bfloat16), exact.tokenizer, name="half", spec=exact.spec
    )
    clean = value_at(half, EDIT)
    patch = method(name, half).edit([EDIT])
    with patch.applied(half):
        moved = float((value_at(half, EDIT) - clean).float().norm())
    assert moved == pytest.approx(patch.provenance["edits"][0]["norms"]["change"], rel=0.1)
