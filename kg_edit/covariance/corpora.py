"""Texts from which a covariance is measured: the model's own (nothing to download), a file, or a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol

from kg_edit.covariance.keys import See, can_pack, keys_of_rows, keys_seen
from kg_edit.errors import CovarianceError
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import sample_text


def open_corpus(name: str, *, seed: int = 0) -> Corpus:
    """The corpus of a name: ``self`` (the model's own text), ``hf:NAME[:CONFIG]`` (a hub data set), or a file's path.

    Raises:
        CovarianceError: it can't be opened.
    """
    if name == "self":
        return SelfCorpus(seed=seed)
    if name.startswith("hf:"):
        return hub_corpus(name.removeprefix("hf:"))
    return file_corpus(Path(name))


class Corpus(Protocol):
    """Text in chunks that are the same each time, so that they can be dealt out, and a killed run goes on.

    ``name`` identifies the content: a seed, a file's hash, a data set's name. ``at_hand``: the text may be gone through
    ahead of the work, to see whether it is long enough.
    """

    name: str
    at_hand: bool

    def chunks(self, model: LanguageModel, *, tokens: int) -> Iterator[Chunk]:
        """Chunks of together at least ``tokens`` tokens, or all that there are; none is run before it is fed."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of text of a known number of tokens; ``feed(layers, see)`` runs the model and shows the keys."""

    tokens: int
    feed: Callable[[Sequence[int], See], None]


class SelfCorpus:
    """Text that the model itself writes, sampled at temperature 1; keys are caught while it is written."""

    rows, length, at_hand = 64, 128, False

    def __init__(self, *, seed: int = 0) -> None:
        self.seed, self.name = seed, f"self:seed={seed},rows={self.rows},length={self.length}"

    def chunks(self, model: LanguageModel, *, tokens: int) -> Iterator[Chunk]:
        """Chunks of ``rows`` texts of ``length`` tokens; the first token is the document's start."""
        size = self.rows * self.length
        for number in range(-(-tokens // size)):
            yield Chunk(tokens=size, feed=partial(self.feed, model, number))

    def feed(self, model: LanguageModel, chunk: int, layers: Sequence[int], see: See) -> None:
        """Write chunk ``chunk``, and show ``see`` its keys in ``layers``."""
        with keys_seen(model, layers, see):
            sample_text(model, rows=self.rows, tokens=self.length, seed=self.seed * 100_003 + chunk)


class TextCorpus:
    """Texts, each cut to ``max_tokens`` tokens; a chunk, packed without padding, is a sixteenth of the run or less."""

    def __init__(
        self, name: str, texts: Callable[[], Iterator[str]], *, max_tokens: int = 256, at_hand: bool = False
    ) -> None:
        self.name, self.at_hand = f"{name},max_tokens={max_tokens}", at_hand
        self._texts, self._max_tokens = texts, max_tokens

    def chunks(self, model: LanguageModel, *, tokens: int) -> Iterator[Chunk]:
        """Chunks of whole texts; the last text is the one with which ``tokens`` is reached."""
        size = chunk_size(tokens)
        rows: list[list[int]] = []
        held = passed = 0
        packed = cache(partial(can_pack, model))  # found out when the first chunk is fed
        for row in self._encoded(model.tokenizer):
            rows.append(row)
            held += len(row)
            if held >= min(size, tokens - passed):
                yield _text_chunk(model, rows, held, packed=packed)
                rows, passed, held = [], passed + held, 0
                if passed >= tokens:
                    return
        if rows:
            yield _text_chunk(model, rows, held, packed=packed)

    def _encoded(self, tokenizer: Any) -> Iterator[list[int]]:
        texts = self._texts()
        for _ in count():
            batch = list(islice(texts, 64))
            if not batch:
                return
            yield from (row[: self._max_tokens] for row in tokenizer(batch)["input_ids"] if row)


def chunk_size(tokens: int) -> int:
    """Tokens of a chunk of a text that is read, in a run of so many."""
    return min(16_384, max(1024, tokens // 16))


def _text_chunk(model: LanguageModel, rows: list[list[int]], tokens: int, *, packed: Callable[[], bool]) -> Chunk:
    def feed(layers: Sequence[int], see: See) -> None:
        keys_of_rows(model, layers, rows, see, packed=packed())

    return Chunk(tokens=tokens, feed=feed)


def file_corpus(path: Path, *, max_tokens: int = 256) -> TextCorpus:
    """A UTF-8 text file, a text a line; the lines keep their newlines.

    Raises:
        CovarianceError: the file can't be read as text.
    """
    try:
        content = path.read_bytes()
        lines = [line for line in content.decode().splitlines(keepends=True) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CovarianceError(f"can't read the corpus {path}: {error}; give a UTF-8 text file") from error
    digest = hashlib.sha256(content).hexdigest()[:16]
    return TextCorpus(f"file:sha256={digest}", lambda: iter(lines), max_tokens=max_tokens, at_hand=True)


def hub_corpus(name: str, *, max_tokens: int = 256) -> TextCorpus:
    """A streamed hub data set, ``NAME`` or ``NAME:CONFIG``, its ``train`` split and ``text`` column.

    Raises:
        CovarianceError: the package ``datasets`` is not installed.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise CovarianceError("corpora from a hub need the package datasets: pip install 'kg-edit[hf]'") from error
    dataset, _, config = name.partition(":")

    def texts() -> Iterator[str]:
        stream = load_dataset(dataset, config or None, split="train", streaming=True)
        return (row["text"] for row in stream if row["text"].strip())

    return TextCorpus(f"hf:{name}", texts, max_tokens=max_tokens)
