"""Paragraphs that answer questions, found by BM25 (Robertson and Zaragoza 2009; the library bm25s, ``[retrieval]``).

    score(q, d) = sum over the words w of q of  idf(w) tf / (tf + k1 (1 - b + b |d| / mean |d|)),  k1 = 1.5, b = 0.75

tf is the count of w in the paragraph d, |d| the number of words of d. English stop words do not count.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from kg_edit.errors import ConfigError, EditFileError
from kg_edit.evaluation.datasets.reading import read_document

_EXPECTED = 'expected rows like {"title": "Paris", "text": "Paris is …"}, or PopQA\'s rows with their paragraphs'


class Passages:
    """An index of paragraphs (`read_passages`)."""

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it reports each step
        self.texts = tuple(texts)
        self._index = bm25s.BM25()
        self._index.index(bm25s.tokenize(list(self.texts), show_progress=False), show_progress=False)

    def best(self, question: str) -> str | None:
        """Return the paragraph with the highest score, or None if no paragraph has a word of ``question``."""
        import bm25s

        words = bm25s.tokenize(question, return_ids=False, show_progress=False)
        indices, scores = self._index.retrieve(words, k=1, show_progress=False)
        if not words[0] or scores[0, 0] <= 0:
            return None
        return self.texts[int(indices[0, 0])]


def read_passages(path: str | Path) -> tuple[str, ...]:
    """Read the paragraphs of a JSON file as "title: text", each once, in order.

    A row has ``title`` and ``text``, or it is a row of PopQA, whose ``paragraphs`` are such rows.
    """
    if find_spec("bm25s") is None:
        raise ConfigError("passages are searched by the package bm25s: pip install 'kg-edit[retrieval]'")
    import bm25s

    content = read_document(Path(path))
    rows = content if isinstance(content, list) else [content]
    found = list[str]()
    for row in rows:
        found += _read_row(row)
    texts = tuple(dict.fromkeys(found))
    if not texts:
        raise EditFileError(f"{path}: found no paragraphs; {_EXPECTED}")
    # bm25s raises a ValueError without a message for texts without a word
    if not any(bm25s.tokenize(text, return_ids=False, show_progress=False)[0] for text in texts):
        raise EditFileError(f"{path}: no paragraph has a word to search for, of two letters or more; {_EXPECTED}")
    return texts


def _read_row(row: object) -> Iterator[str]:
    """Yield the text of a row, and those of its paragraphs."""
    if not isinstance(row, dict):
        return
    title = row.get("title")
    text = row.get("text")
    if isinstance(text, str) and text.strip():
        line = " ".join(text.split())
        if title:
            line = f"{title}: {line}"
        yield line
    paragraphs = row.get("paragraphs")
    if isinstance(paragraphs, str):  # PopQA writes the text of a Python list
        try:
            paragraphs = ast.literal_eval(paragraphs)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return
    if isinstance(paragraphs, list):
        for paragraph in paragraphs:
            yield from _read_row(paragraph)
