"""Greedy text up to given stop words, for loops that alternate between the model's text and inserted text.

`GreedyWriter` keeps the keys and values of the last text that it has read. If the next text continues that text, only
the new part is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kg_edit.models.hooks import watched, with_prompt_ends
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_cache import Prefix, SummedCache, base_model, empty_prefix, mask_decides, run_prefix
from kg_edit.models.prompts import encode

_TOKENS = 8192  # in a batch of texts that are continued together; their keys and values are what takes memory


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
        room = self._room(ids)
        if room <= 0:
            return ""
        return self._written(self._read(ids[:-1], room + 1), [ids[-1]], room, stops)[0]

    @torch.no_grad()
    def write_each(self, texts: Sequence[str], *, stops: Sequence[str]) -> list[str]:
        """`write` for each of ``texts``; texts of similar length are continued together.

        A text is continued alone if the model has too few positions for all tokens, or if padding could change what its
        tokens attend to.
        """
        ids = [self._ids(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda place: len(ids[place]))
        size = max(1, _TOKENS // (max(map(len, ids), default=0) + self._tokens))
        found: dict[int, str] = {}
        for start in range(0, len(order), size):
            places = order[start : start + size]
            rows = [ids[place] for place in places]
            if len(rows) > 1 and self._fit(rows[-1]):
                written = self._written(self._read_rows(rows), [row[-1] for row in rows], self._tokens, stops)
            else:
                written = [self.write(texts[place], stops=stops) for place in places]
            found |= zip(places, written, strict=True)
        return [found[place] for place in range(len(texts))]

    def _room(self, ids: Sequence[int]) -> int:
        """The number of tokens that may follow ``ids``."""
        positions = self._model.positions
        return self._tokens if positions is None else min(self._tokens, positions - len(ids))

    def _fit(self, longest: Sequence[int]) -> bool:
        """Whether rows up to the ``longest`` one may be padded and continued together."""
        most = len(longest) + self._tokens
        return self._room(longest) == self._tokens and mask_decides(self._model, most)

    def _written(self, prefix: Prefix, last: list[int], room: int, stops: Sequence[str]) -> list[str]:
        """The texts after the rows of ``prefix`` and their ``last`` tokens; a finished row leaves the batch."""
        cache = prefix.growing(len(self._model.blocks), room=room + 1)
        rows = [list[int]() for _ in last]
        texts, live, mask = list[str | None]([None] * len(last)), list(range(len(last))), prefix.mask
        for _ in range(room):
            last = self._next(cache, last, mask, begins=mask is prefix.mask)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], -1)
            going = list[int]()
            for at, (row, token) in enumerate(zip(live, last, strict=True)):
                texts[row] = self._ended(rows[row], token, stops)
                going += [at] if texts[row] is None else []
            if len(going) < len(live):
                index = torch.tensor(going, dtype=torch.long, device=mask.device)
                live, last, mask = [live[at] for at in going], [last[at] for at in going], mask[index]
                if not live:
                    break
                cache.batch_select_indices(index)
        return [self._text(row) if text is None else text for row, text in zip(rows, texts, strict=True)]

    def _ended(self, written: list[int], token: int, stops: Sequence[str]) -> str | None:
        """The whole text of a row, if ``token`` ends it; else None, with the token added to ``written``."""
        if token == self._model.tokenizer.eos_token_id:
            return self._text(written)
        written.append(token)
        whole = self._text(written)
        found = [place for stop in stops if (place := whole.find(stop)) >= 0]
        return whole[: min(found)] if found else None

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._model.tokenizer.decode(list(ids), skip_special_tokens=True))

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
        with with_prompt_ends(self._model, None):
            return run_prefix(self._model, [ids], after=after)

    def _read_rows(self, rows: Sequence[tuple[int, ...]]) -> Prefix:
        """The keys and values of ``rows`` without their last tokens, after those of ``before`` if all begin with it."""
        start = self._start
        if not start.ids or any(row[: len(start.ids)] != start.ids or len(row) == len(start.ids) for row in rows):
            start = _Read((), empty_prefix(self._model, 1))
        after = start.prefix.rows(torch.zeros(len(rows), dtype=torch.long, device=self._model.device))
        with with_prompt_ends(self._model, None):
            return run_prefix(self._model, [row[len(start.ids) : -1] for row in rows], after=after)

    def _next(self, cache: SummedCache, last: Sequence[int], mask: Tensor, *, begins: bool) -> list[int]:
        """The most probable token of each row after its ``last`` one, which stands after the tokens of ``mask``.

        ``begins``: the last tokens are those of the prompts.
        """
        device, final = self._model.device, list[Tensor]()  # states before the final norm, which `logits` applies
        ends = torch.ones(len(last), 1, dtype=torch.bool) if begins else None
        with (
            with_prompt_ends(self._model, ends),
            watched(self._model.blocks[-1], lambda _, output: final.append(output)),
        ):
            base_model(self._model)(
                input_ids=torch.tensor([[token] for token in last], device=device),
                attention_mask=torch.cat([mask, mask.new_ones(len(mask), 1)], -1),
                position_ids=mask.sum(-1, keepdim=True),
                past_key_values=cache,
                use_cache=True,
            )
        found: list[int] = self._model.logits(final[0][:, -1]).argmax(-1).tolist()
        return found
