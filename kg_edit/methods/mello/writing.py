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
            ids = encode(model.tokenizer, before.rstrip()).ids[:-1]
            self._start = self._last = _Read(ids, self._run([ids], after=self._start.prefix))

    @torch.no_grad()
    def write(self, texts: Sequence[str], *, stops: Sequence[str]) -> list[str]:
        """Return the text after each of ``texts``, up to the first of ``stops``, the end-of-text token or the limit.

        Texts of similar length are continued together. A text is continued alone if the model has too few positions for
        all tokens, or if padding could change what its tokens attend to. It is "" if no position is left.
        """
        rows = [encode(self._model.tokenizer, text).ids for text in texts]
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        size = max(1, _TOKENS // (max(map(len, rows), default=0) + self._tokens))
        found: dict[int, str] = {}
        for start in range(0, len(order), size):
            places = order[start : start + size]
            longest, positions = len(rows[places[-1]]) + self._tokens, self._model.positions
            together = (positions is None or longest <= positions) and mask_decides(self._model, longest)
            for group in [places] if together else [[place] for place in places]:
                found |= zip(group, self._written([rows[place] for place in group], stops), strict=True)
        return [found[place] for place in range(len(texts))]

    def _written(self, rows: Sequence[tuple[int, ...]], stops: Sequence[str]) -> list[str]:
        """Return the texts after ``rows``, whose longest is the last; a finished row leaves the batch."""
        model, decode = self._model, self._model.tokenizer.decode
        room = self._tokens if model.positions is None else min(self._tokens, model.positions - len(rows[-1]))
        if room <= 0:
            return [""] * len(rows)
        prefix = self._read(rows[0][:-1], more=room + 1) if len(rows) == 1 else self._read_rows(rows)
        cache, mask = prefix.growing(len(model.blocks), room=room + 1), prefix.mask
        live, last = list(range(len(rows))), [row[-1] for row in rows]
        written, texts = [list[int]() for _ in rows], [""] * len(rows)
        for _ in range(room):
            last = self._next(cache, last, mask, begins=mask is prefix.mask)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], -1)
            going = list[int]()
            for at, (row, token) in enumerate(zip(live, last, strict=True)):
                if token == model.tokenizer.eos_token_id:
                    continue
                written[row].append(token)
                texts[row] = str(decode(written[row], skip_special_tokens=True))
                ends = [place for stop in stops if (place := texts[row].find(stop)) >= 0]
                if ends:
                    texts[row] = texts[row][: min(ends)]
                else:
                    going.append(at)
            if len(going) < len(live):
                index = torch.tensor(going, dtype=torch.long, device=mask.device)
                live, last, mask = [live[at] for at in going], [last[at] for at in going], mask[index]
                if not live:
                    break
                cache.batch_select_indices(index)
        return texts

    def _next(self, cache: SummedCache, last: Sequence[int], mask: Tensor, *, begins: bool) -> list[int]:
        """Return the most probable token of each row after its ``last`` one, which follows the tokens of ``mask``.

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

    def _read(self, ids: tuple[int, ...], *, more: int) -> Prefix:
        """Return the keys and values of one text that ``more`` tokens will follow, reusing those of the last text."""
        if not mask_decides(self._model, len(ids) + more):
            return self._run([ids], after=empty_prefix(self._model, 1))
        known = [one for one in (self._last, self._start) if ids[: len(one.ids)] == one.ids]
        start = known[0] if known else _Read((), empty_prefix(self._model, 1))
        self._last = _Read(ids, self._run([ids[len(start.ids) :]], after=start.prefix))
        return self._last.prefix

    def _read_rows(self, rows: Sequence[tuple[int, ...]]) -> Prefix:
        """Return the keys and values of texts without their last tokens, reusing ``before`` if all begin with it."""
        start = self._start
        if not start.ids or any(row[: len(start.ids)] != start.ids or len(row) == len(start.ids) for row in rows):
            start = _Read((), empty_prefix(self._model, 1))
        after = start.prefix.rows(torch.zeros(len(rows), dtype=torch.long, device=self._model.device))
        return self._run([row[len(start.ids) : -1] for row in rows], after=after)

    @torch.no_grad()
    def _run(self, rows: Sequence[tuple[int, ...]], *, after: Prefix) -> Prefix:
        with with_prompt_ends(self._model, None):
            return run_prefix(self._model, rows, after=after)
