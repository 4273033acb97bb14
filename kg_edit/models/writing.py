"""Greedy text up to given stop words, for loops that alternate between the model's text and inserted text.

`GreedyWriter` keeps the keys and values of the last text that it has read. If the next text continues that text, only
the new part is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kg_edit.models.hooks import telling_prompt_ends, watched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_cache import Prefix, SummedCache, base_model, empty_prefix, mask_decides, run_prefix
from kg_edit.models.prompts import encode


class _Read(NamedTuple):
    """Tokens that were read, with their keys and values."""

    ids: tuple[int, ...]
    prefix: Prefix


class GreedyWriter:
    """Writes arg-max text, at most ``tokens`` tokens at a time; the model's own generation settings are ignored.

    Texts are read unchanged: not in chat form, and without the text that a patch of the prompt would add. ``before`` is
    a text with which all texts begin; it is read once.
    """

    def __init__(self, model: LanguageModel, *, tokens: int, before: str = "") -> None:
        self._model, self._tokens = model, tokens
        self._start = self._last = _Read((), empty_prefix(model, 1))
        if before:
            self._start = self._last = self._further(self._ids(before.rstrip())[:-1])

    @torch.no_grad()
    def write(self, text: str, *, stops: Sequence[str]) -> str:
        """Return the text after ``text``, up to the first of ``stops``, the end-of-text token or the token limit.

        Returns "" if the model has no position left.
        """
        ids = self._ids(text)
        room = self._tokens if self._model.positions is None else min(self._tokens, self._model.positions - len(ids))
        if room <= 0:
            return ""
        prefix = self._read(ids[:-1], room + 1)
        cache = prefix.growing(len(self._model.blocks), room=room + 1)
        written, last = list[int](), ids[-1]
        while len(written) < room:
            last = self._next(cache, last, prefix.mask.shape[-1] + len(written), begins=not written)
            if last == self._model.tokenizer.eos_token_id:
                break
            written.append(last)
            whole = str(self._model.tokenizer.decode(written, skip_special_tokens=True))
            if found := [place for stop in stops if (place := whole.find(stop)) >= 0]:
                return whole[: min(found)]
        return str(self._model.tokenizer.decode(written, skip_special_tokens=True))

    def _ids(self, text: str) -> tuple[int, ...]:
        return encode(self._model.tokenizer, text).ids

    def _read(self, ids: tuple[int, ...], more: int) -> Prefix:
        """The keys and values of ``ids``; ``more`` tokens will follow."""
        if not mask_decides(self._model, len(ids) + more):
            return self._run(ids, empty_prefix(self._model, 1))
        self._last = self._further(ids)
        return self._last.prefix

    def _further(self, ids: tuple[int, ...]) -> _Read:
        """Read ``ids``, reusing the last text or ``before`` if ``ids`` begins with it."""
        known = [one for one in (self._last, self._start) if ids[: len(one.ids)] == one.ids]
        start = known[0] if known else _Read((), empty_prefix(self._model, 1))
        return _Read(ids, self._run(ids[len(start.ids) :], start.prefix))

    @torch.no_grad()
    def _run(self, ids: tuple[int, ...], after: Prefix) -> Prefix:
        with telling_prompt_ends(self._model, None):
            return run_prefix(self._model, [ids], after=after)

    def _next(self, cache: SummedCache, last: int, before: int, *, begins: bool) -> int:
        """The most probable token after ``last``, which stands after ``before`` tokens.

        ``begins``: ``last`` is the last token of a prompt.
        """
        device, final = self._model.device, list[Tensor]()  # states before the final norm, which `logits` applies
        ends = torch.ones(1, 1, dtype=torch.bool) if begins else None
        with (
            telling_prompt_ends(self._model, ends),
            watched(self._model.blocks[-1], lambda _, output: final.append(output)),
        ):
            base_model(self._model)(
                input_ids=torch.tensor([[last]], device=device),
                attention_mask=torch.ones(1, before + 1, dtype=torch.long, device=device),
                position_ids=torch.tensor([[before]], device=device),
                past_key_values=cache,
                use_cache=True,
            )
        return int(self._model.logits(final[0][0, -1]).argmax())
