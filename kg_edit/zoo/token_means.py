"""The mean of a module's inputs over each token and all tokens before it in the same text.

    mean_t = 1/t sum_{j <= t} x_j

A patch that decides by a whole prompt needs this mean at every token, because it does not know where a prompt ends. The
attention mask of the block shows which tokens belong to the same text. So the mean is the same for a text alone,
padded, packed with others into one row (`kg_edit.scoring.likelihood`), or read piece by piece with a cache
(`kg_edit.engine.prefix_cache`), which stores the sums so far. In a block with a sliding window, the mean is over the
whole text too. `AfterMarker` shows in the same way at which tokens a text already contains a certain token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from kg_edit.engine.prefix_cache import CacheSums
from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel


class TokenMeans:
    """Means in one block: `attached` records the last call of the block, `of` computes the means.

    If ``layer`` is None, it is the module around all blocks, which has no window. ``name`` separates the sums in a
    cache from other sums of the same block.
    """

    def __init__(self, model: LanguageModel, layer: int | None, *, name: str) -> None:
        self._block: nn.Module
        if layer is not None:
            self._block = model.block(layer)
        elif model.text_config is model.model.config:  # in some families the head calls this module, not the base model
            parent, _, _ = model.spec.blocks.rpartition(".")  # such as model of model.layers
            self._block = model.model.get_submodule(parent)
        else:  # with images, that module gets embeddings, not ids
            self._block = model.model.base_model
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
            with self._block.register_forward_pre_hook(self._record_call, with_kwargs=True):
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
        sums = self._visible_tokens(states.device) @ torch.cat([states, ones], -1)
        if self._cache is not None:
            cache = CacheSums.of(self._cache)
            if self._key in cache.token_sums:  # of the tokens of earlier calls
                sums = sums + cache.token_sums[self._key].to(sums.device)[:, None]
            if cache.stores_sums:
                cache.token_sums[self._key] = sums[:, -1].detach()
        counts = sums[..., -1:].clamp(min=1)  # 0 at padding
        return (sums[..., :-1] / counts).reshape(len(inputs), -1)

    def _visible_tokens(self, device: torch.device) -> Tensor:
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
        if mask.dim() == 2:
            return causal * mask[:, None, -tokens:].to(device, torch.float32)
        shown = mask[:, 0, :, -tokens:].to(device)  # of [rows, 1, tokens, tokens so far]
        if shown.dtype == torch.bool:
            seen = (shown ^ self._mask_hides).float()
        else:
            seen = (shown > torch.finfo(shown.dtype).min / 2).float()
        if tokens > self._window:
            return _whole_texts(seen)
        return seen

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


class AfterMarker(TokenMeans):
    """Whether the token ``marker`` has occurred in a text, at each of its tokens; ``name`` as in `TokenMeans`.

    It is computed once a call, before the first block, from the token ids that the transformer gets. If a caller gives
    embeddings instead of ids, the marker counts as absent.
    """

    def __init__(self, model: LanguageModel, marker: int, *, name: str) -> None:
        super().__init__(model, None, name=name)
        self._marker = marker
        self._first = model.block(0)
        self._ids: Tensor | None = None  # of a call of the transformer whose first block has not begun
        self._after: Tensor | None = None  # 1 or 0 for each token, [tokens, 1]; None if no text has the marker

    @contextmanager
    def attached(self) -> Iterator[AfterMarker]:
        """Record the calls of the transformer inside the ``with`` block."""
        try:
            with self._first.register_forward_pre_hook(self._begin, with_kwargs=True), super().attached():
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

    def _record_call(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record a call of the transformer, and its token ids for `_begin`."""
        super()._record_call(block, args, kwargs)
        self._ids = _input_of(args, kwargs)
        self._after = None

    @torch.no_grad()
    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Compute the tokens after the marker. If no cache was given, the transformer has made one by now."""
        if self._ids is None:
            return
        self._cache = _cache_of(args, kwargs)
        marked = (self._ids.reshape(-1, 1) == self._marker).float()
        self._ids = None
        after = self.of(marked) > 0
        self._after = after.float() if bool(after.any()) else None


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
