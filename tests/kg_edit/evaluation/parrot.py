"""A language model that generates one phrase after every prompt, another after an edit: scores are computed by hand.

GPT-2 with nothing but its embedding, its last norm and its head. The residual stream at a token is that token's own
direction and a direction that all tokens share; the head makes of the shared one the phrase's first token, and of a
token in the phrase the next one, at last the end of the text. An edit adds a third direction, which all tokens share,
to block 1's down-projection. A little noise separates likelihoods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from kg_edit.edits.edit import Edit
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.tiny import byte_level

_VOCABULARY, _WIDTH = 400, 404
_SHARED, _EDITED = 400, 401  # the directions that all tokens share: always, and after an edit
_GELU_OF_1 = 0.8411919906


def parrot(before: str, after: str) -> LanguageModel:
    """The model that generates ``before``, and ``after`` once a `Lesson` is applied to it."""
    tokenizer = byte_level(more=[f" {before}", f" {after}"])
    config = AutoConfig.for_model(
        "gpt2",
        vocab_size=_VOCABULARY,
        n_embd=_WIDTH,
        n_layer=2,
        n_head=4,
        n_positions=1024,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config)
    phrases = [tokenizer(f" {phrase}")["input_ids"] for phrase in (before, after)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.ln_f.weight.fill_(1.0)
        model.transformer.h[1].mlp.c_fc.bias.fill_(1.0)
        model.transformer.wte.weight[:, :_VOCABULARY] = torch.eye(_VOCABULARY)
        model.transformer.wte.weight[:, _SHARED] = 1.0
        model.lm_head.weight.copy_(_head(phrases[0], phrases[1]))
    return LanguageModel.wrap(model, tokenizer, name=f"parrot-{before}-{after}")


def _head(before: Sequence[int], after: Sequence[int]) -> torch.Tensor:
    """[vocabulary, width]"""
    head = 0.002 * torch.randn(_VOCABULARY, _WIDTH, generator=torch.Generator().manual_seed(0))
    head[before[0], _SHARED] += 0.3
    head[after[0], _EDITED] += 0.9
    follows = dict[int, int]()
    for phrase in (before, after):
        for token, following in zip(phrase, [*phrase[1:], 1], strict=True):
            assert follows.setdefault(token, following) == following, "a phrase has a token twice: take another one"
    for token, following in follows.items():
        head[following, token] += 1.5
    return head


@dataclass
class Lesson:
    """Teaches a `parrot` its other phrase: one fixed rank-one change, whatever the edits are."""

    model: LanguageModel
    config: Any
    name: str = "lesson"
    calls: list[str] = field(default_factory=list)
    graph_identity: None = None

    def prepare(self) -> None:
        """Nothing is shared."""

    def edit(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        self.calls += [edit.id for edit in edits]
        weight: nn.Parameter = self.model.down_projection(1).weight  # type: ignore[assignment]
        left, right = torch.zeros(_WIDTH, 1), torch.full((weight.shape[0], 1), 1 / (weight.shape[0] * _GELU_OF_1))
        left[_EDITED] = 1.0
        return WeightPatch(factors={self.model.weight_name(1): Factors(left=left, right=right)})
