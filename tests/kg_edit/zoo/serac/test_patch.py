"""A memory with scopes: prompts in scope go to the counterfactual model, in every way of asking, others do not."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import left_pad
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.generation import ask, continuations
from kg_edit.scoring.likelihood import predictions, score
from kg_edit.scoring.pairs import Pair
from kg_edit.zoo.mend.gradients import weight_shapes
from kg_edit.zoo.serac.counterfactual import block_weights
from kg_edit.zoo.serac.method import Serac, SeracConfig
from kg_edit.zoo.serac.patch import ScopePatch
from kg_edit.zoo.serac.scope import Scope, Vectors
from kg_edit.zoo.serac.special_token import find_marker
from tests.kg_edit.tiny import CHAT_TEMPLATE, byte_level, chatting, families, tiny
from tests.kg_edit.zoo.mend.examples import hooks_of

INSIDE, OUTSIDE = "LeBron James plays for", "Where does the river Thames flow?"
EDITS = (
    Edit(id="1", subject="LeBron James", prompt="{} plays for", target_new="Paris"),
    Edit(id="2", subject="Spike Hughes", prompt="{} originates from", target_new="Miami"),
)


@cache
def changes(family: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Changes of all matrices of the last two blocks, large enough to see."""
    draw = torch.Generator().manual_seed(0)
    shapes = weight_shapes(tiny(family), block_weights(tiny(family), 2))
    return {
        name: (torch.randn(rows, 2, generator=draw) * 0.3, torch.randn(2, columns, generator=draw) * 0.3)
        for name, (rows, columns) in shapes.items()
    }


@cache
def memory(family: str = "llama") -> ScopePatch:
    strict = SeracConfig(untrained=True, threshold=0.9999)  # the states of a tiny model's texts are all alike
    patch = Serac(tiny(family), strict).edit(EDITS)
    assert isinstance(patch, ScopePatch)
    return replace(patch, changes=changes(family))


def counterfactual_prompt(patch: ScopePatch, index: int, prompt: str) -> str:
    return patch.rule.prompt(patch.facts[index].text, prompt)


def test_scope_probability() -> None:
    """Two tokens, weighing 3/4 and 1/4, to another head 0 and 1; a text has the first, and half of the second."""
    weights = torch.tensor([[[0.75, 0.0], [0.25, 1.0]]])
    edit = Vectors(vectors=torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), weights=weights)
    near = torch.tensor([[1.0, 0.0], [0.75**0.5, 0.5]])
    far = torch.tensor([[-1.0, 0.0]])
    texts = Vectors.joined([(near, torch.ones(2, 2) / 2), (far, torch.ones(1, 2))])
    scale, offset = torch.tensor([2.0, 4.0]), torch.tensor([-1.0, 0.0])
    scope = Scope(project=torch.eye(2), weigh=torch.zeros(2, 2), scale=scale, offset=offset)
    # 2 (3/4 * 1 + 1/4 * 1/2) - 1, and 2 (3/4 * -1 + 1/4 * 0) - 1: the padding of the shorter text is no token;
    # the second head 4 * 1/2, and 4 * 0
    first, second = torch.tensor([[0.75, -2.5]]), torch.tensor([[2.0, 0.0]])
    torch.testing.assert_close(scope.log_chances(edit, texts).exp(), first.sigmoid() * second.sigmoid())


def test_vectors_have_length_one_and_weights_sum_to_one() -> None:
    scope = Scope(project=torch.randn(3, 8), weigh=torch.randn(2, 8), scale=torch.ones(2), offset=torch.zeros(2))
    vectors, weights = scope.vectors(5 * torch.randn(4, 8) + 3)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(weights.sum(0), torch.ones(2))


@pytest.mark.parametrize("family", families(("llama", "gpt2")))
def test_counterfactual_model_answers_inside_the_scope_only(family: str) -> None:
    """The plain way: the low-rank changes as a patch of the weights, and the fact before the prompt."""
    patch, model = memory(family), tiny(family)
    lora = WeightPatch(
        factors={name: Factors(left=left, right=right.T.contiguous()) for name, (left, right) in patch.changes.items()}
    )
    with lora.applied(model) as changed:
        expected = score(changed, [Pair(counterfactual_prompt(patch, 0, INSIDE), "Paris")])
    outside = [Pair(OUTSIDE, "London"), Pair(OUTSIDE, "the quick fox")]
    clean, before = score(model, outside), hooks_of(model)
    with patch.applied(model) as edited:
        assert score(edited, outside) == clean, "bit for bit"
        mixed = score(edited, [*outside, Pair(INSIDE, "Paris")])
        (inside,) = expected.values()
        assert mixed[Pair(INSIDE, "Paris")].nll == pytest.approx(inside.nll, abs=1e-4)
        for pair in outside:
            assert mixed[pair].nll == pytest.approx(clean[pair].nll, abs=1e-4)
    assert hooks_of(model) == before


@pytest.mark.parametrize("family", families(("llama",)))
def test_answer_is_the_same_in_every_way_of_asking(family: str) -> None:
    """Packed, padded, token by token with a cache, by the program's decoder and by transformers' own."""
    patch, model = memory(family), tiny(family)
    prompts = [INSIDE, OUTSIDE, EDITS[1].text]
    with patch.applied(model) as edited:
        alone = [plain(edited, prompt, 4) for prompt in prompts]
        together = continuations(edited, prompts, limits=[4] * 3)
        pairs = [Pair(prompt, text) for prompt, text in zip(prompts, alone, strict=True) if text.strip()]
        scores, predicted = score(edited, pairs), predictions(edited, pairs)
    assert list(together) == alone
    assert all(predicted[pair] for pair in pairs) and scores.keys() == predicted.keys()
    clean = [plain(model, prompt, 4) for prompt in prompts]
    assert alone[1] == clean[1] and alone != clean


def plain(model: LanguageModel, prompt: str, tokens: int) -> str:
    """Greedy, the whole text read anew at each token."""
    ids = list(model.encode(prompt).ids)
    start = len(ids)
    with torch.no_grad():
        for _ in range(tokens):
            ids.append(int(model.model(torch.tensor([ids])).logits[0, -1].argmax()))
    written = str(model.tokenizer.decode(ids[start:]))
    return written.split("</s>")[0].split("\n")[0].replace("<s>", "")


def test_generation_by_transformers_and_padding_on_the_right() -> None:
    patch, model = memory(), tiny("llama")
    with patch.applied(model) as edited, torch.no_grad():
        ids = torch.tensor([edited.encode(INSIDE).ids])
        cached = edited.model.generate(ids, max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(ids))
        uncached = edited.model.generate(
            ids, max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(ids), use_cache=False
        )
        assert cached.tolist() == uncached.tolist()
        alone = edited.model(ids).logits[0, -1]
        rows = left_pad([ids[0].tolist(), edited.encode(OUTSIDE).ids], device=torch.device("cpu"))
        left = edited.model(rows.ids, attention_mask=rows.mask, position_ids=rows.positions).logits[0, -1]
        right = torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], -1)
        padded = edited.model(right).logits[0, ids.shape[1] - 1]
    torch.testing.assert_close(left, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_cache_of_the_first_pass_is_continued() -> None:
    """The transformer makes the cache itself, after the patch has seen the token ids."""
    patch, model = memory(), tiny("llama")
    with patch.applied(model) as edited:
        ids = torch.tensor([edited.encode(INSIDE).ids])
        first = edited.model(ids, use_cache=True)
        step = edited.model(torch.tensor([[5]]), past_key_values=first.past_key_values, use_cache=True)
        full = edited.model(torch.cat([ids, torch.tensor([[5]])], 1))
    torch.testing.assert_close(step.logits[0, -1], full.logits[0, -1], rtol=1e-4, atol=1e-4)


def test_edit_of_two_paragraphs_is_in_its_own_scope() -> None:
    edit = EDITS[0].model_copy(update={"prompt": f"Of the fox.\n\n{EDITS[0].prompt}"})
    model = tiny("llama")
    patch = Serac(model, SeracConfig(untrained=True)).edit([edit])
    assert isinstance(patch, ScopePatch)
    assert patch.prompt_transform(model, edit.text) == counterfactual_prompt(patch, 0, edit.text)


def test_token_that_begins_every_text_is_no_marker() -> None:
    """OPT's tokenizer puts its EOS token before each text."""
    model = tiny("llama")
    tokenizer = copy.deepcopy(model.tokenizer)
    for number, token in tokenizer.added_tokens_decoder.items():
        assert token.content in (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
        assert number is not None
    end = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tokenizer.eos_token} $A", special_tokens=[(tokenizer.eos_token, end)]
    )
    tokenizer.unk_token = tokenizer.eos_token
    assert tokenizer("")["input_ids"] == [end]
    with pytest.raises(ConfigError, match="every text has all of them"):
        find_marker(tokenizer, name="toy")


def test_last_paragraph_decides_and_nearest_fact_is_inserted() -> None:
    patch, model = memory(), tiny("llama")
    with patch.applied(model):
        assert patch.prompt_transform(model, EDITS[1].text) == counterfactual_prompt(patch, 1, EDITS[1].text)
        assert patch.prompt_transform(model, OUTSIDE) == OUTSIDE
        shown = f"Q: {OUTSIDE}\nA: Oxford\n\n{INSIDE}"
        assert patch.prompt_transform(model, shown) == counterfactual_prompt(patch, 0, shown)
        assert patch.prompt_transform(model, "") == "" and patch.prompt_transform(model, "\n") == "\n"


def test_thresholds_of_zero_and_one() -> None:
    model = tiny("llama")
    for threshold, in_scope in ((0.0, True), (1.0, False)):
        patch = Serac(model, SeracConfig(untrained=True, threshold=threshold)).edit(EDITS[:1])
        assert isinstance(patch, ScopePatch)
        assert (patch.prompt_transform(model, OUTSIDE) != OUTSIDE) is in_scope


def test_later_edit_of_a_prompt_is_active_until_it_is_removed() -> None:
    model = tiny("llama")
    later = EDITS[0].model_copy(update={"id": "later", "target_new": "Rome"})
    patch = Serac(model, SeracConfig(untrained=True)).edit([*EDITS, later])
    assert isinstance(patch, ScopePatch)
    nearest = patch.nearest(model, INSIDE)
    assert nearest is not None and nearest[0].id == "later" and nearest[1] > 0.99
    remaining = patch.without(["later"])
    assert [record["edit"]["id"] for record in remaining.edits] == ["1", "2"]
    assert "Paris" in remaining.prompt_transform(model, INSIDE)


def test_scope_patch_with_a_patch_of_weights() -> None:
    """The weights' patch changes all texts, the memory its own alone."""
    model, patch = tiny("llama"), memory()
    name = "model.layers.0.mlp.down_proj.weight"
    factors = Factors(left=torch.randn(32, 1), right=torch.randn(48, 1))
    weights = WeightPatch(factors={name: factors}, provenance={})
    clean = score(model, [Pair(OUTSIDE, "London")])
    with (weights + patch).applied(model) as edited:
        moved = score(edited, [Pair(OUTSIDE, "London")])
    with weights.applied(model) as edited:
        assert score(edited, [Pair(OUTSIDE, "London")]) == moved != clean


def test_scope_patch_is_read_as_it_was_saved(tmp_path: Path) -> None:
    intact = memory()
    again = Patch.load(intact.save(tmp_path / "whole.safetensors"))
    assert isinstance(again, ScopePatch) and again.summary == intact.summary
    assert again.changes.keys() == intact.changes.keys()


def test_chat_gets_the_fact_and_a_marker_that_it_never_contains() -> None:
    model = chatting()
    patch = Serac(model, SeracConfig(untrained=True, threshold=0.0)).edit(EDITS[:1])
    with patch.applied(model) as edited:
        assert isinstance(ask(edited, "Who?", chat=True, tokens=2), str)
    ending = byte_level()
    ending.chat_template = CHAT_TEMPLATE + "{{ eos_token }}"
    with pytest.raises(ConfigError, match="no free special token to mark a text"):
        find_marker(ending, name="toy")
    ending.add_special_tokens({"additional_special_tokens": ["<mark>"]})
    assert find_marker(ending, name="toy").text == "<mark>"
