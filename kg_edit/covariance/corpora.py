"""The corpora from which a covariance is measured: the packaged text, the model's own text, a file, or a data set.

``imported:NAME`` names covariances that were imported, and has no text (`kg_edit.covariance.published`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kg_edit.errors import CovarianceError
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import sample_text

if TYPE_CHECKING:  # a stored covariance needs the name of its text, and no keys
    from kg_edit.covariance.keys import ReceiveKeys

    FeedKeys = Callable[[Sequence[int], ReceiveKeys], None]  # see `Chunk`

PACKAGED = "packaged"
IMPORTED = "imported:"
PACKAGED_TOKENS = 120_000
"""The number of tokens that the packaged text has at least, in the tokenizer of any model."""


def open_corpus(name: str, *, seed: int = 0) -> Corpus:
    """Open a corpus by name.

    Args:
        name: ``packaged`` (text that SmolLM2 wrote), ``self`` (the model's own text), a file's path,
            ``hf:NAME[:CONFIG]`` (a hub data set), or ``imported:NAME`` (imported covariances).
        seed: the random seed of the model's own text.
    """
    if name == PACKAGED:
        return packaged_corpus()
    if name == "self":
        return SelfCorpus(seed=seed)
    if is_imported(name):
        return ImportedCorpus(name)
    if name.startswith("hf:"):
        return hub_corpus(name.removeprefix("hf:"))
    return file_corpus(Path(name))


def is_imported(corpus: str) -> bool:
    """Return whether a corpus is that of imported covariances, by its name."""
    return corpus.startswith(IMPORTED)


class Corpus(Protocol):
    """A text in chunks that are the same in each run, so that a killed run can continue.

    ``name`` identifies the content: a seed, a file's hash, a data set's name. ``at_hand``: whether the text is cheap to
    read in advance, to check that it is long enough.
    """

    name: str
    at_hand: bool

    def chunks(self, model: LanguageModel, *, tokens: int) -> Iterator[Chunk]:
        """Yield chunks with at least ``tokens`` tokens in total, or the whole text.

        The model runs in ``feed`` of a chunk. So a caller that only counts the tokens of chunks runs no model.
        """


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of text with its number of tokens.

    ``feed(layers, receive)`` runs the model on the text, and calls ``receive`` with each layer and its keys.
    """

    tokens: int
    feed: FeedKeys


class SelfCorpus:
    """Text that the model itself writes, sampled at temperature 1; the keys are recorded during the sampling."""

    rows = 64
    length = 128
    at_hand = False

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self.name = f"self:seed={seed},rows={self.rows},length={self.length}"

    def chunks(self, model: LanguageModel, *, tokens: int) -> Iterator[Chunk]:
        """Yield chunks of ``rows`` texts with ``length`` tokens each; the first token is the document's start."""
        size = self.rows * self.length
        for number in range(math.ceil(tokens / size)):
            yield self._make_chunk(model, number)

    def _make_chunk(self, model: LanguageModel, number: int) -> Chunk:
        """Return the chunk with this number, which is sampled when it is fed."""

        def feed(layers: Sequence[int], receive: ReceiveKeys) -> None:
            self.sample_keys(model, number, layers, receive)

        return Chunk(tokens=self.rows * self.length, feed=feed)

    def sample_keys(self, model: LanguageModel, chunk: int, layers: Sequence[int], receive: ReceiveKeys) -> None:
        """Sample the chunk with the number ``chunk``, and pass its keys in ``layers`` to ``receive``."""
        from kg_edit.covariance.keys import watch_keys

        with watch_keys(model, layers, receive):
            seed = self.seed * 100_003 + chunk  # the chunks of two seeds have different seeds, up to 100,003 chunks
            sample_text(model, rows=self.rows, tokens=self.length, seed=seed)


class _ChunkMaker:
    """Makes the chunks of a text. Before the first one is fed, it tests whether texts can be packed into a row."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._packed: bool | None = None  # None: not tested yet

    def make(self, rows: Sequence[Sequence[int]]) -> Chunk:
        """Return the chunk of the texts with the token ids ``rows``, which must not be changed afterwards."""

        def feed(layers: Sequence[int], receive: ReceiveKeys) -> None:
            from kg_edit.covariance.keys import can_pack, pass_keys

            if self._packed is None:
                self._packed = can_pack(self._model)
            pass_keys(self._model, layers, rows, receive, packed=self._packed)

        return Chunk(tokens=sum(len(row) for row in rows), feed=feed)


class TextCorpus:
    """Texts, each cut to ``max_tokens`` tokens, or to the model's positions. `chunk_size` gives the size of a chunk."""

    def __init__(
        self, name: str, texts: Callable[[], Iterator[str]], *, max_tokens: int = 256, at_hand: bool = False
    ) -> None:
        self.name = f"{name},max_tokens={max_tokens}"
        self.at_hand = at_hand
        self._texts = texts
        self._max_tokens = max_tokens

    def chunks(self, model: LanguageModel, *, tokens: int) -> Iterator[Chunk]:
        """Yield chunks of whole texts; the last text is the one that reaches ``tokens``."""
        maker = _ChunkMaker(model)
        size = chunk_size(tokens)
        rows: list[list[int]] = []
        waiting = 0  # tokens of the rows of this chunk
        passed = 0  # tokens of all chunks before it

        for row in self._encode(model):
            rows.append(row)
            waiting += len(row)
            if waiting >= min(size, tokens - passed):
                yield maker.make(rows)
                rows = []  # a new list, because the chunk has the old one
                passed += waiting
                waiting = 0
                if passed >= tokens:
                    return
        if rows:
            yield maker.make(rows)

    def _encode(self, model: LanguageModel) -> Iterator[list[int]]:
        """Yield the token ids of each text; texts are encoded 64 at a time."""
        texts = self._texts()
        most = self._max_tokens
        if model.max_positions is not None:
            most = min(most, model.max_positions)
        while True:
            batch = list(islice(texts, 64))
            if not batch:
                return
            for row in model.tokenizer(batch)["input_ids"]:
                if row:
                    yield row[:most]


class ImportedCorpus:
    """The text of imported covariances, which is not here: nothing is measured from it."""

    at_hand = False

    def __init__(self, name: str) -> None:
        self.name = name

    def chunks(self, model: LanguageModel, *, tokens: int) -> Iterator[Chunk]:
        """Return no chunks."""
        return iter(())


def chunk_size(tokens: int) -> int:
    """Return the number of tokens of a chunk in a run of ``tokens`` tokens: a sixteenth, but 1024 to 16,384."""
    return min(16_384, max(1024, tokens // 16))


def packaged_corpus() -> TextCorpus:
    """Return the packaged corpus: texts of about 128 tokens that SmolLM2 sampled (`studies/corpus.py`)."""
    content = (files("kg_edit") / "data" / "corpus.jsonl.gz").read_bytes()

    def read_texts() -> Iterator[str]:
        for line in gzip.decompress(content).decode().strip().split("\n"):
            yield json.loads(line)

    digest = hashlib.sha256(content).hexdigest()[:16]
    return TextCorpus(f"{PACKAGED}:sha256={digest}", read_texts, at_hand=True)


def file_corpus(path: Path) -> TextCorpus:
    """Return the corpus of a UTF-8 text file with one text per line; the lines include their newlines."""
    try:
        if path.exists() and not path.is_file():  # a device may have no end
            raise _unreadable(path, "it is not a file")
        content = path.read_bytes()
        lines = content.decode().splitlines(keepends=True)
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, error) from error
    digest = hashlib.sha256(content).hexdigest()[:16]

    def read_texts() -> Iterator[str]:
        for line in lines:
            if line.strip():
                yield line

    return TextCorpus(f"file:sha256={digest}", read_texts, at_hand=True)


def _unreadable(path: Path, reason: object) -> CovarianceError:
    """Return the error for a file that can't be a corpus."""
    return CovarianceError(f"can't read the corpus {path}: {reason}; give a UTF-8 text file")


def hub_corpus(name: str) -> TextCorpus:
    """Return the corpus of a hub data set, ``NAME`` or ``NAME:CONFIG``: split ``train``, column ``text``, streamed."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise CovarianceError("corpora from a hub need the package datasets: pip install 'kg-edit[hf]'") from error
    dataset, _, config = name.partition(":")

    def read_texts() -> Iterator[str]:
        try:
            for row in load_dataset(dataset, config or None, split="train", streaming=True):
                if row["text"].strip():
                    yield row["text"]
        except Exception as error:  # the datasets library passes on errors of many other libraries
            raise CovarianceError(
                f"can't read the corpus hf:{name}: {error!r}; expected hf:NAME[:CONFIG] with the split train and the "
                "column text"
            ) from error

    return TextCorpus(f"hf:{name}", read_texts)
