"""Eight sets of general ability, scored by likelihood without lm-eval: `kg-edit evaluate --general quick:FOLDER`.

These are the sets that papers on many edits score: GLUE's SST-2, MRPC, CoLA and RTE, MMLU, and the NLI, dialogue
(MuTual) and sentiment sets of their programs. The folder is the user's, because the sets have licences of their own.

Of each set some rows are drawn by the run's seed. The model's answer is the choice with the lowest -log p per token
after the prompt, and the score is accuracy.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from string import Formatter, ascii_uppercase
from typing import Any, NamedTuple, Self

from kg_common.json_text import digest
from kg_edit.errors import ConfigError, EditError, EditFileError, Fault, describe
from kg_edit.evaluation.datasets.reading import every_row, read_document
from kg_edit.evaluation.general_tasks import PREFIX, DocumentScores, document_scores
from kg_edit.evaluation.memory import in_halves
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair

ROWS = 64  # drawn of each set
_LISTED = "listed"  # in a prompt: the row's choices, each after its letter

log = logging.getLogger(__name__)


class Document(NamedTuple):
    """A prompt, the choices of which one follows it, and the index of the right one."""

    prompt: str
    choices: tuple[str, ...]
    right: int

    @property
    def pairs(self) -> list[Pair]:
        """The prompt with each choice."""
        return [Pair(self.prompt, choice) for choice in self.choices]

    def score(self, nll: Mapping[Pair, float]) -> float:
        """Return 1 if the right choice has the lowest -log p of all; a tie is wrong, as it shows no knowledge."""
        others = [nll[pair] for pair in self.pairs]
        right = others.pop(self.right)
        return float(right < min(others))


@dataclass(frozen=True)
class QuickSet:
    """How the rows of a set are asked.

    Attributes:
        prompt: the prompt, with the row's fields in braces.
        right: the field of the right answer.
        words: the answer for each value of that field; empty if a row has choices of its own.
        choices: the field of the row's choices; its right answer is an index from 0 or a letter.
    """

    prompt: str
    right: str = "label"
    words: Mapping[str, str] = field(default_factory=dict)
    choices: str = ""

    def document(self, row: object) -> Document:
        """Return a row as a document."""
        if not isinstance(row, dict):
            raise EditError([Fault("", f"found {describe(row)}; expected an object {{...}} of fields")])
        texts = self._read_texts(row)
        right = _read_field(row, self.right, "the right answer")
        if self.words:
            labels = list(self.words)
            choices = tuple(self.words.values())
        else:
            choices = self._read_choices(row)
            letters = list(ascii_uppercase[: len(choices)])
            labels = letters
            if not isinstance(right, str):  # the right answer is given by its index
                labels = [str(index) for index in range(len(choices))]
            if _LISTED in self.prompt:
                lines = [f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True)]
                texts[_LISTED] = "\n".join(lines).strip()
                choices = tuple(letters)
            else:
                choices = tuple(choice.strip() for choice in choices)
        if str(right) not in labels:
            raise EditError([Fault(self.right, f"found {describe(right)}; expected one of {', '.join(labels)}")])
        return Document(self.prompt.format(**texts), choices, labels.index(str(right)))

    def _read_texts(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Return the texts of the row that the prompt has in braces, by field."""
        texts = {}
        for _, name, _, _ in Formatter().parse(self.prompt):
            if name and name != _LISTED:
                text = _read_field(row, name, "a text")
                if not _is_text(text):
                    raise EditError([Fault(name, f"found {describe(text)}; expected a text")])
                texts[name] = text.strip()
        return texts

    def _read_choices(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the row's own choices."""
        choices = _read_field(row, self.choices, "a list of choices")
        are_texts = isinstance(choices, list) and all(map(_is_text, choices))
        if not are_texts or not 1 < len(choices) <= len(ascii_uppercase):
            raise EditError([Fault(self.choices, f"found {describe(choices)}; expected a list of two texts or more")])
        return tuple(choices)


def _read_field(row: Mapping[str, Any], name: str, expected: str) -> Any:
    if name not in row:
        raise EditError([Fault(name, f"is missing; expected {expected}")])
    return row[name]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


_SENTIMENT = QuickSet("Review: {sentence}\nSentiment:", words={"0": "negative", "1": "positive"})
_ENTAILED = "{sentence1}\nQuestion: {sentence2} True or False?\nAnswer:"
SETS: Mapping[str, QuickSet] = {
    "sst2": _SENTIMENT,
    "mrpc": QuickSet(
        "Sentence 1: {sentence1}\nSentence 2: {sentence2}\nQuestion: Do both sentences mean the same thing?\nAnswer:",
        words={"0": "No", "1": "Yes"},
    ),
    "cola": QuickSet(
        "{sentence}\nQuestion: Does this sentence make sense?\nAnswer:",
        words={"0": "No", "1": "Yes"},
    ),
    "rte": QuickSet(_ENTAILED, words={"0": "True", "1": "False"}),  # in GLUE 0 is entailment
    "nli": QuickSet(_ENTAILED, words={"entailment": "True", "not_entailment": "False"}),
    "mmlu": QuickSet("{question}\n{listed}\nAnswer:", right="answer", choices="choices"),
    "dialogue": QuickSet("{article}", right="answers", choices="options"),
    "sentiment_analysis": _SENTIMENT,
}
"""The sets by the name of their file; the prompts of MRPC, CoLA and RTE are worded as lm-eval's."""


@dataclass(frozen=True, eq=False, kw_only=True)
class QuickTasks:
    """The drawn documents of each set."""

    documents: Mapping[str, tuple[Document, ...]]

    @classmethod
    def open(cls, folder: str | Path, *, seed: int = 0, rows: int = ROWS) -> Self:
        """Read the sets of a folder, NAME.jsonl or NAME.json each, and draw ``rows`` of each by ``seed``.

        A set that the folder lacks is left out, with a warning.
        """
        folder = Path(folder)
        documents = dict[str, tuple[Document, ...]]()
        lacking = list[str]()
        for name, form in SETS.items():
            paths = [folder / f"{name}.jsonl", folder / f"{name}.json"]
            existing = [path for path in paths if path.exists()]
            if not existing:
                lacking.append(name)
                continue
            path = existing[0]
            every = list(_read_documents(form, path))
            chosen_by = random.Random(f"{seed}/{name}")  # noqa: S311 - nothing secret
            drawn = chosen_by.sample(range(len(every)), min(rows, len(every)))
            documents[name] = tuple(every[index] for index in sorted(drawn))
        if not documents:
            files = ", ".join(f"{name}.jsonl" for name in SETS)
            raise ConfigError(f"--general quick:{folder}: no such file as {files}")
        if lacking:
            log.warning("%s has no %s.jsonl: not measured", folder, ".jsonl, ".join(lacking))
        return cls(documents=documents)

    @property
    def settings(self) -> dict[str, Any]:
        """The part of a run's settings that decides the scores."""
        sha256 = {}
        for name, docs in self.documents.items():
            sha256[name] = digest([list(doc) for doc in docs])
        return {"sha256": sha256}

    def scores(self, model: LanguageModel) -> dict[str, DocumentScores]:
        """Return the accuracy on each set, ``general.quick.SET.acc``, and on all documents, ``general.quick.acc``."""
        every: list[Document] = []
        for documents in self.documents.values():
            every += documents
        model.foresee(doc.prompt for doc in every)

        def score_part(part: Sequence[Document]) -> list[tuple[Pair, float]]:
            pairs = list[Pair]()
            for doc in part:
                pairs += doc.pairs
            return [(pair, scores.nll) for pair, scores in score(model, pairs).items()]

        nll = dict(in_halves(score_part, every))
        accuracies = {}
        every_hit = list[float]()
        for name, docs in self.documents.items():
            hits = [doc.score(nll) for doc in docs]
            every_hit += hits
            accuracies[f"{PREFIX}quick.{name}.acc"] = document_scores(fmean(hits), hits)
        accuracies[f"{PREFIX}quick.acc"] = document_scores(fmean(every_hit), every_hit)
        return accuracies


def _read_documents(form: QuickSet, path: Path) -> Iterator[Document]:
    """Yield the documents of a file; all its rows are checked."""
    try:
        rows = list(every_row(read_document(path)))
    except EditFileError as error:
        raise ConfigError(f"--general quick: {error}") from None
    if not rows:
        raise ConfigError(f"--general quick: {path} has no rows; remove the file, or give it rows")
    for number, row in enumerate(rows, 1):
        try:
            yield form.document(row)
        except EditError as error:
            raise ConfigError(f"--general quick: {path}, row {number}, {error.faults[0]}") from None
