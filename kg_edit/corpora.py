"""Texts from which a covariance is measured: the model's own (nothing to download), a file, or a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from kg_edit.contexts import sample_text
from kg_edit.errors import CovarianceError
from kg_edit.hooks import StopForwardError, stopping, watched
from kg_edit.language_model import LanguageModel
from kg_edit.prompts import left_pad

See = Callable[[Tensor], None]


class Corpus(Protocol):
    """Text in chunks that can be asked for one by one, so that a killed run goes on where it was.

    ``name`` identifies the content: a seed, a file's hash, a data set's name.
    """

    name: str

    def feed(self, model: LanguageModel, layer: int, chunk: int, see: See) -> int:
        """Show ``see`` the keys of chunk ``chunk`` in ``layer``; the number of tokens (0: no more text)."""


class SelfCorpus:
    """Text that the model itself writes, sampled at temperature 1; keys are caught while it is written."""

    rows, length = 64, 128

    def __init__(self, *, seed: int = 0) -> None:
        self.seed, self.name = seed, f"self:seed={seed},rows={self.rows},length={self.length}"

    def feed(self, model: LanguageModel, layer: int, chunk: int, see: See) -> int:
        """Sample ``rows`` texts of ``length`` tokens; the first token is the document's start."""
        with watched(model.down_projection(layer), lambda key, _: see(key)):
            sample_text(model, rows=self.rows, tokens=self.length, seed=self.seed * 100_003 + chunk)
        return self.rows * self.length


class TextCorpus:
    """Texts, each cut to ``max_tokens`` tokens; a chunk is ``texts_a_chunk`` of them, batched by length."""

    texts_a_chunk, batch_tokens = 64, 4096

    def __init__(self, name: str, texts: Callable[[], Iterator[str]], *, max_tokens: int = 256) -> None:
        self.name, self._texts, self._max_tokens = f"{name},max_tokens={max_tokens}", texts, max_tokens

    def feed(self, model: LanguageModel, layer: int, chunk: int, see: See) -> int:
        """Run one chunk up to ``layer`` and no further."""
        texts = list(islice(self._texts(), chunk * self.texts_a_chunk, (chunk + 1) * self.texts_a_chunk))
        encoded = [model.tokenizer(text)["input_ids"][: self._max_tokens] for text in texts]
        rows = sorted((row for row in encoded if row), key=len)
        for batch in _batches(rows, self.batch_tokens):
            _keys_of(model, layer, batch, see)
        return sum(map(len, rows))


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
    return TextCorpus(f"file:sha256={digest}", lambda: iter(lines), max_tokens=max_tokens)


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


def open_corpus(name: str, *, seed: int = 0) -> Corpus:
    """``self``, ``hf:NAME[:CONFIG]``, or a file's path.

    Raises:
        CovarianceError: it can't be opened.
    """
    if name == "self":
        return SelfCorpus(seed=seed)
    if name.startswith("hf:"):
        return hub_corpus(name.removeprefix("hf:"))
    return file_corpus(Path(name))


def _batches(rows: list[list[int]], budget: int) -> Iterator[list[list[int]]]:
    """Runs of rows, sorted by length, whose padded size stays within ``budget`` tokens."""
    batch: list[list[int]] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(row) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@torch.no_grad()
def _keys_of(model: LanguageModel, layer: int, rows: list[list[int]], see: See) -> None:
    batch = left_pad(rows, device=model.device)

    def catch(key: Tensor, _: Tensor) -> None:
        see(key.reshape(-1, key.shape[-1])[batch.mask.bool().reshape(-1)])
        raise StopForwardError

    with watched(model.down_projection(layer), catch), stopping():
        model.model.base_model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
        )
