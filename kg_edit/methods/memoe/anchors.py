"""Knowledge anchors: for each token, the mean embedding of the names so far in its text (MEMoE, arXiv 2405.19086).

MEMoE routes a token by the named entities of its sentence. Here a simple rule finds the names, so no other model is
needed: a token belongs to a name if it begins a word with a capital letter. Only the first token of each word counts.
The first word of a text has a capital letter in any case; it does not count if the tokenizer writes no space before it.
A token can't know what comes after it, so its anchor is the mean over the names up to it, and 0 before the first name
(`kg_edit.models.token_means`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from kg_edit.models.hooks import told_tokens
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.token_means import TokenMeans

_SPACES = ("\u0120", "\u2581", " ")  # how byte-level and sentence-piece vocabularies write a space


class Anchors:
    """The anchors of the tokens in the last call of block ``layer``."""

    def __init__(self, model: LanguageModel, layer: int, *, name: str) -> None:
        embedding = model.model.get_input_embeddings()
        assert isinstance(embedding, nn.Module)  # noqa: S101 - true of every causal language model
        self._embedding, self._names = embedding, name_tokens(model.tokenizer, len(embedding.weight))  # type: ignore[arg-type]
        self._model, self._means = model, TokenMeans(model, layer, name=name)
        self._ids: Tensor | None = None

    @contextmanager
    def attached(self) -> Iterator[Anchors]:
        """Record the embedded token ids and the calls of the block inside the ``with`` block."""
        handle = self._embedding.register_forward_pre_hook(self._note)
        try:
            with self._means.attached():
                yield self
        finally:
            handle.remove()
            self._ids = None

    @torch.no_grad()
    def of(self, inputs: Tensor) -> Tensor:
        """The anchors [tokens, d] in float32 for ``inputs`` [tokens, .]; 0 if the token ids are not known."""
        weight, told = self._embedding.weight, told_tokens(self._model)
        assert isinstance(weight, Tensor)  # noqa: S101 - an embedding has one
        found = self._ids if told is None else told
        if found is None or found.numel() != len(inputs):
            return torch.zeros(len(inputs), weight.shape[1], device=inputs.device)
        ids = found.reshape(-1).to(weight.device)
        mine = self._names.to(ids.device)[ids][:, None]
        means = self._means.of(torch.cat([mine * weight[ids].float(), mine], -1).to(inputs.device))
        return means[:, :-1] / means[:, -1:].clamp(min=torch.finfo(means.dtype).eps)

    def _note(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self._ids = args[0]


def name_tokens(tokenizer: PreTrainedTokenizerBase, size: int) -> Tensor:
    """A vector [size] with 1 for each token id that begins a word with a capital letter, else 0.

    A tokenizer that puts a space before every text writes its first word as any other one. There the words of which
    texts usually begin ("The", "Where") can't be told from names, and count.
    """
    found = torch.zeros(size)
    numbers = list(range(min(size, len(tokenizer))))
    words: list[str] = tokenizer.convert_ids_to_tokens(numbers)  # type: ignore[assignment]
    for number, word in zip(numbers, words, strict=True):
        found[number] = starts_a_name(tokenizer, word)
    return found


def starts_a_name(tokenizer: PreTrainedTokenizerBase, word: str | None) -> bool:
    """Whether a vocabulary entry begins a word with a capital letter.

    A byte-level vocabulary writes letters beyond ASCII as bytes, so the entry is decoded first.
    """
    if not word or not word.startswith(_SPACES):
        return False
    return str(tokenizer.convert_tokens_to_string([word])).lstrip()[:1].isupper()
