"""Greedy text up to given stop words, for loops that alternate between the model's text and inserted text."""

from __future__ import annotations

from collections.abc import Sequence

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
        self._model, self._tokens = model, tokens
        ids = encode(model.tokenizer, before.rstrip()).ids[:-1] if before else ()
        self._starts = SharedContexts(model, [ids]) if ids else None

    def write(self, texts: Sequence[str], *, stops: Sequence[str]) -> list[str]:
        """Return the text after each of ``texts``, up to the first of ``stops``, the end-of-text token or the limit.

        Texts of similar length are continued together. A text is continued alone if the model has too few positions for
        all tokens, or if padding could change what its tokens attend to. It is "" if no position is left.
        """
        rows = [encode(self._model.tokenizer, text).ids for text in texts]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        size = max(1, _TOKENS // (max(map(len, rows), default=0) + self._tokens))
        written: dict[int, str] = {}
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            longest, positions = len(rows[indices[-1]]) + self._tokens, self._model.positions
            together = (positions is None or longest <= positions) and mask_decides(self._model, longest)
            for group in [indices] if together else [[index] for index in indices]:
                written |= zip(group, self._written([rows[index] for index in group], stops), strict=True)
        return [written[index] for index in range(len(texts))]

    def _written(self, rows: Sequence[tuple[int, ...]], stops: Sequence[str]) -> list[str]:
        """Return the texts after ``rows``."""
        tokenizer, positions = self._model.tokenizer, self._model.positions
        remaining = [self._tokens if positions is None else max(0, positions - len(row)) for row in rows]

        def text_of(tokens: Sequence[int]) -> str:
            content = [token for token in tokens if token != tokenizer.eos_token_id]  # only the last one may be it
            return str(tokenizer.decode(content, skip_special_tokens=True))

        def ends(tokens: Sequence[int]) -> bool:
            return tokens[-1] == tokenizer.eos_token_id or any(stop in text_of(tokens) for stop in stops)

        limits = [min(self._tokens, room) for room in remaining]
        written = greedy(self._model, rows, limits=limits, ends=ends, starts=self._starts)
        texts = [text_of(continuation.tokens) for continuation in written]
        all_cuts = [[cut for stop in stops if (cut := text.find(stop)) >= 0] for text in texts]
        return [text[: min(cuts, default=len(text))] for text, cuts in zip(texts, all_cuts, strict=True)]
