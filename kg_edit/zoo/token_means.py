"""The mean of a module's inputs over each token and all tokens before it in the same text.

    mean_t = 1/t sum_{j <= t} x_j

A patch that decides by a whole prompt needs this mean at every token, because it does not know where a prompt ends. The
attention mask of the block shows which tokens belong to the same text. So the mean is the same for a text alone,
padded, packed with others into one row (`kg_edit.scoring.likelihood`), or read piece by piece with a cache
(`kg_edit.engine.cache_sums`), which stores the sums so far. In a block with a sliding window, the mean is over the
whole text too.

`TokenMeans` computes the means. `AfterMarker` uses them to find the tokens of a text from a marker on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from kg_edit.engine.cache_sums import let_store_sums
from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel


class TokenMeans:
    """Means in one block: `attached` records the last call of the block, `of` computes the means.

    If ``layer`` is None, the transformer around all blocks is taken for the block. ``name`` separates the sums in a
    cache from other sums of the same block.
    """

    def __init__(self, model: LanguageModel, layer: int | None, *, name: str) -> None:
        self.block = find_transformer(model) if layer is None else model.block(layer)
        self._key = f"{layer}/{name}"
        self._window = getattr(model.text_config, "sliding_window", None) or math.inf
        self._mask_hides = model.text_config.model_type == "mpt"  # whose mask is True where a token is not seen
        self.size = (0, 0)  # rows and tokens of the block's last call
        self._mask: Tensor | None = None
        self._cache: Cache | None = None

    @contextmanager
    def attached(self) -> Iterator[TokenMeans]:
        """Record the calls of the block inside the ``with`` block."""
        try:
            with self.block.register_forward_pre_hook(self._record_call, with_kwargs=True):
                yield self
        finally:
            self._mask = None
            self._cache = None

    def of(self, inputs: Tensor) -> Tensor:
        """Return the means, in float32, of a module's inputs [rows * tokens, d] in the block's last call.

        If the module ran on other tokens than the block, the inputs themselves are returned: each token is its own
        mean.
        """
        rows, tokens = self.size
        if rows * tokens != len(inputs):
            return inputs.float()
        states = inputs.float().reshape(rows, tokens, -1)
        ones = states.new_ones(rows, tokens, 1)
        # The last column counts the tokens: sum_{j <= t} (x_j, 1), [rows, tokens, d + 1].
        sums = self._find_visible(states.device) @ torch.cat([states, ones], -1)
        sums = self._continue_sums(sums)
        counts = sums[..., -1:].clamp(min=1)  # 0 at padding
        return (sums[..., :-1] / counts).reshape(len(inputs), -1)

    def _continue_sums(self, sums: Tensor) -> Tensor:
        """Add the sums that the cache stores of earlier calls to ``sums`` [rows, tokens, d + 1]; store the new ones."""
        if self._cache is None:
            return sums
        cache = let_store_sums(self._cache)
        if self._key in cache.token_sums:
            # Up to the last token of the call before, [rows, d + 1].
            earlier = cache.token_sums[self._key].to(sums.device)
            sums = sums + earlier[:, None]  # the same for each token of this call, [rows, 1, d + 1]
        if cache.stores_sums:  # not in a frozen cache, which forgets each call
            cache.token_sums[self._key] = sums[:, -1].detach()  # up to the last token
        return sums

    def _find_visible(self, device: torch.device) -> Tensor:
        """Return which tokens of the call are in the text up to each token, as 1 or 0.

        The shape is [rows, tokens, tokens]: the last axis has the tokens that are seen, the one before it those that
        see them. It is [1, tokens, tokens] if all rows see alike.
        """
        _, tokens = self.size
        causal = torch.ones(1, tokens, tokens, device=device).tril()
        mask = self._mask
        if mask is None:
            return causal
        if getattr(self._cache, "is_compileable", False):  # its mask is as wide as its buffer
            raise PatchError(
                "this patch sums up a text, and a static cache does not show which of its positions are in the text; "
                "generate without cache_implementation, or one text at a time"
            )
        # A mask also has the tokens of earlier calls in a cache. Those of this call are its last columns.
        if mask.dim() == 2:  # [rows, tokens so far], 1 at tokens and 0 at padding, as a caller of the model gives it
            is_token = mask[:, None, -tokens:].to(device, torch.float32)  # [rows, 1, tokens]
            return causal * is_token
        shown = mask[:, 0, :, -tokens:].to(device)  # [rows, tokens, tokens] of [rows, 1, tokens, tokens so far]
        seen = self._is_seen(shown).float()
        if tokens > self._window:
            return _whole_texts(seen)
        return seen

    def _is_seen(self, shown: Tensor) -> Tensor:
        """Return as booleans what a block's attention mask says: whether a token is seen."""
        if shown.dtype != torch.bool:
            # It is added to the attention's scores: 0 where a token is seen, else -inf or the type's least number.
            return shown > torch.finfo(shown.dtype).min / 2
        if self._mask_hides:
            return ~shown
        return shown

    def set_cache(self, cache: Cache | None) -> None:
        """Take ``cache`` for that of the block's last call, where the block got none and made one itself."""
        self._cache = cache

    def _record_call(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the size of a call, its attention mask, and its cache."""
        state = _input_of(args, kwargs)
        self.size = (0, 0)
        if state is not None:
            self.size = (state.shape[0], state.shape[1])
        # The mask is a keyword, or among the positional arguments the one with four dimensions.
        masks = [arg for arg in args[1:] if isinstance(arg, Tensor) and arg.dim() == 4]
        if isinstance(kwargs.get("attention_mask"), Tensor):
            masks = [kwargs["attention_mask"]]
        self._mask = masks[0] if masks else None
        self._cache = _cache_of(args, kwargs)


def _whole_texts(seen: Tensor) -> Tensor:
    """Return what a token attends to, what these tokens attend to, and so on, [rows, tokens, tokens].

    In a sliding window, a token attends only to the last tokens of its text.
    """
    reached = (seen @ seen > 0).float()
    if torch.equal(reached, seen):
        return seen
    return _whole_texts(reached)


class AfterMarker:
    """Whether the token ``marker`` has occurred in a text, at each of its tokens; ``name`` as in `TokenMeans`.

    In a pass of the model, these are called one after the other:

    1. `_record_ids`, when the transformer around the blocks is called: it keeps the token ids. `TokenMeans` records
       the attention mask of the same call. If a caller gives embeddings instead of ids, the marker counts as absent.
    2. `_find_tokens`, when the first block is called: it computes the result, once for the pass.
    3. `at`, by each module whose output depends on the marker: it returns the result.
    """

    def __init__(self, model: LanguageModel, marker: int, *, name: str) -> None:
        self._marker = marker
        self._means = TokenMeans(model, None, name=name)
        self._first_block = model.block(0)
        self._ids: Tensor | None = None  # [rows, tokens], between 1. and 2.
        self._after: Tensor | None = None  # 1 or 0 for each token, [tokens, 1]; None if no text has the marker

    @contextmanager
    def attached(self) -> Iterator[AfterMarker]:
        """Look for the marker in the passes of the model inside the ``with`` block."""
        transformer = self._means.block
        try:
            with (
                self._means.attached(),
                transformer.register_forward_pre_hook(self._record_ids, with_kwargs=True),
                self._first_block.register_forward_pre_hook(self._find_tokens, with_kwargs=True),
            ):
                yield self
        finally:
            self._ids = None
            self._after = None

    def at(self, tokens: int) -> Tensor | None:
        """Return 1 or 0 for each token of the last call, [tokens, 1].

        None if no text has had the marker, or if the last call did not have ``tokens`` tokens.
        """
        if self._after is None or len(self._after) != tokens:
            return None
        return self._after

    def _record_ids(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the token ids of a call of the transformer, and forget the result of the call before."""
        self._ids = _input_of(args, kwargs)
        self._after = None

    @torch.no_grad()
    def _find_tokens(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Compute the tokens from the marker on."""
        if self._ids is None:  # the blocks run alone, without the transformer
            return
        self._means.set_cache(_cache_of(args, kwargs))  # the transformer makes one before its first block
        is_marker = (self._ids.reshape(-1, 1) == self._marker).float()  # [rows * tokens, 1]
        self._ids = None
        # The mean of this 0 or 1 up to a token is above 0 as soon as one of the tokens was the marker.
        is_after = self._means.of(is_marker) > 0
        if bool(is_after.any()):
            self._after = is_after.float()


def find_transformer(model: LanguageModel) -> nn.Module:
    """Return the module that gets token ids and calls the blocks.

    In a model that reads only text, it is the parent of the blocks, such as ``model`` of ``model.layers``: in some
    families the head calls this one, and not the base model. In a model that reads images too, the parent of the blocks
    gets embeddings, so it is the base model.
    """
    reads_text_only = model.text_config is model.model.config
    if not reads_text_only:
        base: nn.Module = model.model.base_model
        return base
    parent, _, _ = model.spec.blocks.rpartition(".")
    return model.model.get_submodule(parent)


def _cache_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Cache | None:
    """Return the cache that a block or the transformer gets."""
    for arg in (*args[1:], *kwargs.values()):
        if isinstance(arg, Cache):
            return arg
    return None


def _input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the input of a block or of the transformer: hidden states or token ids [rows, tokens, ...]."""
    if args:
        state = args[0]
    else:
        state = kwargs.get("hidden_states", kwargs.get("input_ids"))
    return state if isinstance(state, Tensor) else None
