"""Greedy text up to given stop words, for loops that alternate between the model's text and inserted text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kg_edit.engine.prefix_cache import SharedContexts, mask_decides
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode
from kg_edit.scoring.greedy import greedy

_TOKENS = 8192  # in a batch of texts that are continued together; their keys and values are what takes memory


class GreedyWriter:
    """Writes arg-max text, at most ``tokens`` tokens at a time; the model's own generation settings are ignored.

    Texts are read unchanged: not in chat form, and without the text that a patch of the prompt would add. ``before`` is
    a text with which all texts begin; it is read once.
    """

    def __init__(self, model: LanguageModel, *, tokens: int, before: str = "") -> None:
        self._model = model
        self._tokens = tokens
        self._contexts = None
        ids: tuple[int, ...] = ()
        if before:
            ids = encode(model.tokenizer, before.rstrip()).ids[:-1]  # the last token may merge with more
        if ids:
            self._contexts = SharedContexts.of_starts(model, [ids])

    def write(self, texts: Sequence[str], *, stops: Sequence[str]) -> list[str]:
        """Return the text after each of ``texts``, up to the first of ``stops``, the end-of-text token or the limit.

        Texts of similar length are continued together. A text is "" if no position is left.
        """
        rows = [encode(self._model.tokenizer, text).ids for text in texts]
        written = [""] * len(rows)
        for batch in self._batches(rows):
            continuations = self._continue([rows[index] for index in batch], stops)
            for index, continuation in zip(batch, continuations, strict=True):
                written[index] = continuation
        return written

    def _batches(self, rows: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
        """Yield the indices of rows that are continued together: the shortest first, `_TOKENS` tokens in a batch.

        A row is continued alone if the model has too few positions for all tokens of its batch, or if padding could
        change what its tokens attend to.
        """
        if not rows:
            return
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        longest_of_all = len(rows[order[-1]]) + self._tokens
        size = max(1, _TOKENS // longest_of_all)
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            longest = len(rows[batch[-1]]) + self._tokens
            positions = self._model.max_positions
            has_room = positions is None or longest <= positions
            if has_room and mask_decides(self._model, longest):
                yield batch
            else:
                for index in batch:
                    yield [index]

    def _continue(self, rows: Sequence[tuple[int, ...]], stops: Sequence[str]) -> list[str]:
        """Return the text after each of ``rows``."""
        end_token = self._model.tokenizer.eos_token_id

        def is_finished(tokens: Sequence[int]) -> bool:
            return tokens[-1] == end_token or any(stop in self._decode(tokens) for stop in stops)

        limits = [self._limit(row) for row in rows]
        continuations = greedy(self._model, rows, limits=limits, is_finished=is_finished, contexts=self._contexts)
        return [cut_at_first(stops, self._decode(continuation.tokens)) for continuation in continuations]

    def _limit(self, row: Sequence[int]) -> int:
        """Return how many tokens may be written after a row."""
        positions = self._model.max_positions
        if positions is None:
            return self._tokens
        return min(self._tokens, max(0, positions - len(row)))

    def _decode(self, tokens: Sequence[int]) -> str:
        tokenizer = self._model.tokenizer
        content = [token for token in tokens if token != tokenizer.eos_token_id]  # only the last one may be it
        return str(tokenizer.decode(content, skip_special_tokens=True))


def cut_at_first(stops: Sequence[str], text: str) -> str:
    """Return the text up to the first of the stops that it contains."""
    cuts = [text.find(stop) for stop in stops if stop in text]
    return text[: min(cuts)] if cuts else text
