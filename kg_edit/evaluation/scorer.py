"""Score cases on a model: what their metrics ask, asked at once, and the metrics of the answers.

Scores of the unedited model are stored in the cache folder (`UneditedScores`): they are computed once for all methods.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from kg_common.json_text import digest
from kg_edit.errors import OutputError
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.general_tasks import DocumentScores
from kg_edit.evaluation.memory import in_halves
from kg_edit.evaluation.metrics.catalogue import metrics_for, requests_of
from kg_edit.evaluation.quick_tasks import QuickTasks
from kg_edit.evaluation.records import Section
from kg_edit.evaluation.retention import RetentionAnswer, RetentionTest
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.loading import cache_folder
from kg_edit.patches.base import Patch
from kg_edit.scoring.asking import ask_each, compare_beginnings
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.greedy import greedy
from kg_edit.scoring.perplexity import general_scores
from kg_edit.scoring.questions import generation_prompt
from kg_edit.scoring.requests import ANSWER_TOKENS, Requests
from kg_edit.scoring.text_vectors import cosines
from kg_edit.storage.atomic import write_text
from kg_edit.storage.run_differences import Settings

# The settings on which an unedited model's scores of a case depend.
_DECIDES = (
    "model",
    "tokenizer_sha256",
    "protocol",
    "question_form_sha256",
    "kg_edit",
    "chat_form_sha256",
    "conversations_sha256",
)

log = logging.getLogger(__name__)
Stored = TypeVar("Stored")
_SECTION = TypeAdapter(Section)
_REPLIES = TypeAdapter(list[RetentionAnswer])
_SCORES = TypeAdapter(dict[str, float | None])
_TASKS = TypeAdapter(dict[str, DocumentScores])


def score_cases(
    model: LanguageModel,
    cases: Sequence[Case],
    *,
    before: Sequence[Section] | None = None,
    patches: Sequence[Patch | None] | None = None,
) -> tuple[Section, ...]:
    """Return a section for each case, with the metrics that the case has (see `metrics_for`).

    Args:
        model: the model, with or without edits.
        cases: what to ask.
        before: the unedited model's sections of the same cases, if ``model`` is edited; metrics that compare the two
            models need them.
        patches: a patch for each case, applied while the case is scored; patches of weights are scored together.
    """
    requests = [requests_of(case) for case in cases]
    unedited: list[Evidence | None] = [None] * len(cases)
    if before:
        for index, section in enumerate(before):
            unedited[index] = _read_evidence(model, requests[index], section)
    evidence = ask_each(model, requests, patches=patches, before=unedited)
    sections = []
    for index, case in enumerate(cases):
        sections.append(_make_section(case, requests[index], evidence[index]))
    return tuple(sections)


@torch.no_grad()
def answer_seconds(model: LanguageModel, prompt: str) -> float:
    """Return the seconds in which the model reads ``prompt`` alone and writes `ANSWER_TOKENS` tokens."""
    start = time.perf_counter()
    greedy(model, [model.encode(prompt).ids], limits=[ANSWER_TOKENS])
    return round(time.perf_counter() - start, 4)


def _make_section(case: Case, requests: Requests, evidence: Evidence) -> Section:
    """Return the metrics of a case, with the evidence that decided them."""
    nll: dict[str, dict[str, float]] = {}
    for pair in requests.pairs:
        nll.setdefault(pair.prompt, {})[pair.candidate] = evidence.scores[pair].nll
    predicted: dict[str, dict[str, tuple[int, ...]]] = {}
    for pair in requests.predicted:
        predicted.setdefault(pair.prompt, {})[pair.candidate] = evidence.predicted[pair]
    texts = {}
    walks = {}
    for continued in requests.continued:
        name = continued.name or continued.prompt
        texts[name] = evidence.texts[continued.prompt]
        if continued.prompt in evidence.walks:
            walks[name] = evidence.walks[continued.prompt]
    for conversation, exchange in evidence.exchanges.items():
        texts |= zip(conversation.names, exchange, strict=True)
    return Section(
        scores={name: metric(case, evidence) for name, metric in metrics_for(case).items()},
        nll=nll,
        texts=texts,
        predicted=predicted,
        samples=dict(evidence.samples),
        next_tokens={prompt: dict(log_p) for prompt, log_p in evidence.next_tokens.items()},
        walks=walks,
    )


def _read_evidence(model: LanguageModel, requests: Requests, section: Section) -> Evidence:
    """Return the part of the unedited model's evidence that its section has: texts, arg-max tokens, and next tokens."""
    texts = _read_texts(requests, section)
    predicted = {}
    for pair in requests.predicted:
        tokens = section.predicted.get(pair.prompt, {}).get(pair.candidate)
        if tokens is not None:
            predicted[pair] = tokens
    return Evidence(
        texts=texts,
        compared=compare_beginnings(model, requests, texts),
        predicted=predicted,
        next_tokens=section.next_tokens,
    )


def _read_texts(requests: Requests, section: Section) -> dict[str, str]:
    """Return the continuations of a section by prompt."""
    names = {text.prompt: text.name or text.prompt for text in requests.continued}
    return {prompt: section.texts[name] for prompt, name in names.items() if name in section.texts}


def add_cosines(model: LanguageModel, cases: Sequence[Case], sections: Sequence[Section]) -> list[Section]:
    """Return the sections with the scores that compare generated texts with their targets in meaning.

    They need the unedited model, because an edited one would judge itself: call it after the patch was reverted.
    """
    extended = []
    for case, section in zip(cases, sections, strict=True):
        scores = {**section.scores, **_score_meaning(model, case, section)}
        extended.append(section.model_copy(update={"scores": scores}))
    return extended


def _score_meaning(model: LanguageModel, case: Case, section: Section) -> dict[str, float | None]:
    """Return the scores of a case's metrics that compare in meaning; none if it has no such metric."""
    metrics = {name: metric for name, metric in metrics_for(case).items() if metric.in_meaning}
    if not metrics:
        return {}
    texts = _read_texts(requests_of(case), section)
    groups = dict[str, None]()  # in order, each once
    for metric in metrics.values():
        groups |= dict.fromkeys(metric.needs)
    pairs = []  # each text with its target
    for group in groups:
        for query in case.queries(group):
            pairs.append((texts[generation_prompt(query)], query.answers[0][0]))
    evidence = Evidence(texts=texts, cosines=cosines(model, pairs))
    return {name: metric(case, evidence) for name, metric in metrics.items()}


def score_broken(case: Case, unedited: Section) -> Section:
    """Return the scores on a model that can't be scored: 0 for shares that should be high; others are missing.

    A share that the ``unedited`` model lacks is missing too, unless it compares with that model.
    """
    scores = dict[str, float | None]()
    for name, metric in metrics_for(case).items():
        is_share = metric.values == "0 to 1" and metric.better == "higher"
        compares = name.endswith((".unchanged", ".same_text"))
        if is_share and (compares or unedited.scores[name] is not None):
            scores[name] = 0.0
    return Section(scores=scores, nll={}, texts={})


class UneditedScores:
    """The unedited model's sections, one file each in the cache folder; unknown ones are computed and stored.

    The file name is a hash of the model, the protocol and the case with its choices.
    """

    def __init__(self, model: LanguageModel, settings: Settings) -> None:
        decides = {name: settings[name] for name in _DECIDES if name in settings}
        # A model counts by its content, and not by its name.
        decides["model"] = {key: value for key, value in decides["model"].items() if key != "name"}
        self._model = model
        self._key = digest(decides)
        self._folder = cache_folder() / "unedited"
        self._unwritten: dict[Path, Any] = {}  # what could not be written, by its file

    def sections(self, cases: Mapping[str, Case]) -> dict[str, Section]:
        """Return the sections of ``cases``, by name."""
        stored = {}
        for name, case in cases.items():
            section = self._read(case, _SECTION)
            # without those from before a metric was added or removed
            if section and section.scores.keys() == metrics_for(case).keys():
                stored[name] = section
        if len(stored) == len(cases):
            return stored
        # If some are missing, as after a kill, all are scored again: a resumed run rounds like an uninterrupted one.
        every_case = tuple(cases.values())
        scored = in_halves(lambda chunk: score_cases(self._model, chunk), every_case)
        sections = dict(zip(cases, add_cosines(self._model, every_case, scored), strict=True))
        for name, section in sections.items():
            if name not in stored:
                self._write(cases[name], _SECTION, section)
        return sections | stored

    def general(self, text: str) -> dict[str, float | None]:
        """Return general ability on ``text``."""
        return self._stored(text, _SCORES, lambda: general_scores(self._model, text))

    def quick(self, tasks: QuickTasks) -> dict[str, DocumentScores]:
        """Return the scores of the quick sets."""
        return self._stored(f"quick {digest(tasks.settings)}", _TASKS, lambda: tasks.scores(self._model))

    def replies(self, test: RetentionTest, *, chat: bool) -> list[RetentionAnswer]:
        """Return the answers to a retention test, asked in plain text or in chat form."""
        name = f"retention {test.digest}"
        if chat:
            name += " in chat form"
        return self._stored(name, _REPLIES, lambda: test.replies(self._model.in_chat(chat=chat)))

    def _stored(self, name: str, kind: TypeAdapter[Stored], compute: Callable[[], Stored]) -> Stored:
        """Return what is stored under a name; compute and store it if it is unknown."""
        value = self._read(name, kind)
        if value is None:
            value = compute()
            self._write(name, kind, value)
        return value

    def _read(self, content: Case | str, kind: TypeAdapter[Stored]) -> Stored | None:
        file = self._file(content)
        if file in self._unwritten:
            return cast(Stored, self._unwritten[file])
        try:
            return kind.validate_json(file.read_bytes())
        except (OSError, ValidationError):  # absent or damaged: it is scored and written again
            return None

    def _write(self, content: Case | str, kind: TypeAdapter[Stored], value: Stored) -> None:
        file = self._file(content)
        try:
            write_text(file, kind.dump_json(value).decode() + "\n")
        except OutputError as error:  # with a full or read-only cache, only the next run is slower
            log.warning("can't write scores of the unedited model to the cache: %s", error)
            self._unwritten[file] = value

    def _file(self, content: Case | str) -> Path:
        name = digest([self._key, to_jsonable_python(content)])
        return self._folder / name[:2] / f"{name}.json"
