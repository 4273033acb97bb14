"""Score cases on a model, with all metrics of a case at once: one forward pass for all pairs, one batch of
continuations.

Scores of the unedited model are stored in the cache folder (`UneditedScores`): they are computed once for all methods.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python
from transformers import PreTrainedTokenizerBase

from kg_edit.errors import OutputError
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.datasets.own_edits import TEXTS
from kg_edit.evaluation.general_tasks import DocumentScores
from kg_edit.evaluation.memory import in_halves
from kg_edit.evaluation.metrics.catalogue import RECORD_METRICS, metrics_for
from kg_edit.evaluation.metrics.metric import Evidence
from kg_edit.evaluation.metrics.unstructured import COSINE
from kg_edit.evaluation.quick_tasks import QuickTasks
from kg_edit.evaluation.records import Section
from kg_edit.evaluation.retention import Reply, RetentionTest
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.loading import cache_folder
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch, wholly_patched
from kg_edit.scoring.generation import COMPARED, compared_text, continuations, room_for, samples
from kg_edit.scoring.greedy import greedy
from kg_edit.scoring.likelihood import next_tokens, predictions, score_each
from kg_edit.scoring.perplexity import general_scores
from kg_edit.scoring.questions import generated_from, right_answers
from kg_edit.scoring.text_vectors import cosines
from kg_edit.storage.atomic import write_text
from kg_edit.storage.run_folder import Settings, digest

ANSWER_TOKENS = 24  # the longest answer that a model may write
LIST_TOKENS = 128  # the longest list of answers; RippleEdits' program has one token a character of the prompt, and 30
LONG_TOKENS = 60  # a text in which the model may contradict an edit
STEP_TOKENS = 40  # the longest answer with written steps
_REWRITE_TOKENS = 10  # after an edit's own prompt, at least; a long target may take more
# The settings on which an unedited model's scores of a case depend.
_DECIDES = ("model", "tokenizer_sha256", "protocol", "question_form_sha256", "kg_edit", "chat_form_sha256")

log = logging.getLogger(__name__)
Stored = TypeVar("Stored")
_SECTION, _REPLIES = TypeAdapter(Section), TypeAdapter(list[Reply])
_SCORES, _TASKS = TypeAdapter(dict[str, float | None]), TypeAdapter(dict[str, DocumentScores])


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

    Raises:
        PromptError: a prompt and its target can't be separated in tokens.
        ModelError: a model's output is not finite, or a prompt does not fit into its positions.
        PatchMismatchError: a patch is for another model.
        ChatTemplateError: a case is asked in chat form, and the tokenizer has no chat template.
    """
    earlier: Sequence[Section | None] = before or [None] * len(cases)
    by_case: Sequence[Patch | None] = patches or [None] * len(cases)
    sections: dict[int, Section] = {}
    for chat in sorted({case.chat for case in cases}):
        reader = model.in_chat() if chat else model
        indices = [index for index, case in enumerate(cases) if case.chat == chat]
        of_weights = [patch for index in indices if (patch := by_case[index]) is None or isinstance(patch, WeightPatch)]
        if len(of_weights) == len(indices):  # all are patches of weights: one forward pass for all cases
            group, unedited = [cases[index] for index in indices], [earlier[index] for index in indices]
            sections |= zip(indices, _score_together(reader, group, unedited, of_weights), strict=True)
            continue
        for index in indices:
            patch = by_case[index]
            with patch.applied(reader) if patch else nullcontext(reader) as edited:
                (sections[index],) = _score_together(edited, [cases[index]], [earlier[index]], [None])
    return tuple(sections[index] for index in range(len(cases)))


def _score_together(
    model: LanguageModel,
    cases: Sequence[Case],
    before: Sequence[Section | None],
    patches: Sequence[WeightPatch | None],
) -> tuple[Section, ...]:
    """Score cases that are all asked in ``model``'s form, each with its own patch of weights."""
    model.foresee(text for case in cases for text in (*(pair.prompt for pair in case.pairs), *case.continued))
    scores = score_each(model, [case.pairs for case in cases], patches=patches)

    # All continuations of one line are one batch, and so are all paragraphs. Cases of the unpatched model share their
    # prompts, with the largest limit.
    owners = [index if patch else None for index, patch in enumerate(patches)]
    limits: dict[tuple[int | None, str], int] = {}
    for owner, case in zip(owners, cases, strict=True):
        for prompt, limit in text_limits(model.tokenizer, case).items():
            limits[owner, prompt] = max(limit, limits.get((owner, prompt), 0))
    long = {(owner, prompt) for owner, case in zip(owners, cases, strict=True) for prompt in case.paragraphs}
    written = dict[tuple[int | None, str], str]()
    for several_lines in (False, True):
        keys = [key for key in limits if (key in long) == several_lines]
        texts = continuations(
            model,
            [prompt for _, prompt in keys],
            limits=[limits[key] for key in keys],
            patches=[None if owner is None else patches[owner] for owner, _ in keys],
            several_lines=several_lines,
        )
        written |= zip(keys, texts, strict=True)

    sections = []
    for owner, case, patch, pair_scores, unedited in zip(owners, cases, patches, scores, before, strict=True):
        with wholly_patched(model, patch):
            predicted, sampled = predictions(model, case.predicted_pairs), samples(model, case.sampled)
            following = next_tokens(model, case.foreseen, tokens_of=unedited.next_tokens if unedited else None)
        continued = {prompt: written[owner, prompt] for prompt in case.continued}
        evidence = Evidence(
            scores=pair_scores,
            texts=continued,
            compared=_compared(model, case, continued),
            predicted=predicted,
            samples=sampled,
            next_tokens=following,
            before=_evidence_of(model, case, unedited) if unedited else None,
        )
        sections.append(_section(case, evidence))
    return tuple(sections)


@torch.no_grad()
def answer_seconds(model: LanguageModel, prompt: str) -> float:
    """Return the seconds in which the model reads ``prompt`` alone and writes `ANSWER_TOKENS` tokens."""
    start = time.perf_counter()
    greedy(model, [model.encode(prompt).ids], limits=[ANSWER_TOKENS])
    return round(time.perf_counter() - start, 4)


def text_limits(tokenizer: PreTrainedTokenizerBase, case: Case) -> dict[str, int]:
    """Return the token limit after each prompt; small for an edit's own prompt, unless an answer is expected after it.

    An edit's prompt has room for its target, a question or a probe for each name that counts as an answer. Of a text
    that is only compared with the unedited model's, the beginning suffices.
    """
    limits = dict.fromkeys(case.continued, ANSWER_TOKENS if case.chat else _REWRITE_TOKENS)
    if not case.chat:
        limits |= dict.fromkeys(case.compared, COMPARED)
    limits |= dict.fromkeys(case.answered, ANSWER_TOKENS) | dict.fromkeys(case.stepped, STEP_TOKENS)
    limits |= dict.fromkeys(case.long_texts, LONG_TOKENS)
    # Each edit's statement with its target, each question and each prompt of a probe with each name of its answers.
    accepted = [] if case.ceiling else [(edit.text, edit.target_new) for edit in case.edits]
    questions = zip(case.few_shot_prompts, case.questions, strict=True)
    accepted += [(prompt, name) for prompt, question in questions for name in right_answers(question)]
    queries = [query for probe in case.probes for query in (*probe.queries, *probe.conditions)]
    accepted += [(generated_from(query), name) for query in queries for names in query.answers for name in names]
    for prompt, name in accepted:
        if prompt in limits:
            limits[prompt] = max(limits[prompt], room_for(tokenizer, name))
    # A query that requires all its answers needs room for the longest name of each; the cast of a film has no end.
    for query in queries:
        if query.every and (prompt := generated_from(query)) in limits:
            listed = room_for(tokenizer, ", ".join(max(names, key=len) for names in query.answers))
            limits[prompt] = max(limits[prompt], min(listed, LIST_TOKENS))
    return limits


def _section(case: Case, evidence: Evidence) -> Section:
    """The metrics of a case, with the evidence that decided them."""
    nll: dict[str, dict[str, float]] = {}
    for pair in case.pairs:
        nll.setdefault(pair.prompt, {})[pair.candidate] = evidence.scores[pair].nll
    predicted: dict[str, dict[str, tuple[int, ...]]] = {}
    for pair in case.predicted_pairs:
        predicted.setdefault(pair.prompt, {})[pair.candidate] = evidence.predicted[pair]
    return Section(
        scores={name: metric(case, evidence) for name, metric in metrics_for(case).items()},
        nll=nll,
        texts={name: evidence.texts[prompt] for prompt, name in case.continued.items()},
        predicted=predicted,
        samples={prompt: evidence.samples[prompt] for prompt in case.sampled},
        next_tokens={prompt: dict(evidence.next_tokens[prompt]) for prompt in case.foreseen},
    )


def _compared(model: LanguageModel, case: Case, texts: Mapping[str, str]) -> dict[str, str]:
    """The parts of the texts by which two models are compared."""
    prompts = texts.keys() & case.compared
    return {prompt: compared_text(model, texts[prompt], chat=case.chat) for prompt in prompts}


def _evidence_of(model: LanguageModel, case: Case, section: Section) -> Evidence:
    """The part of the unedited model's evidence that its section has: texts, arg-max tokens, and next tokens."""
    texts = {prompt: section.texts[name] for prompt, name in case.continued.items() if name in section.texts}
    predicted = [(pair, section.predicted.get(pair.prompt, {}).get(pair.candidate)) for pair in case.predicted_pairs]
    return Evidence(
        texts=texts,
        compared=_compared(model, case, texts),
        predicted={pair: tokens for pair, tokens in predicted if tokens is not None},
        next_tokens=section.next_tokens,
    )


def with_cosines(model: LanguageModel, cases: Sequence[Case], sections: Sequence[Section]) -> list[Section]:
    """Return the sections with the scores that compare generated texts with their targets in meaning.

    They need the unedited model, because an edited one would judge itself: call it after the patch was reverted.
    """
    extended = []
    for case, section in zip(cases, sections, strict=True):
        names = [name for name in section.scores if name.endswith(COSINE)]
        if names:
            texts = {prompt: section.texts[name] for prompt, name in case.continued.items() if name in section.texts}
            queries = (query for probe in case.probes if probe.measures in TEXTS for query in probe.queries)
            pairs = ((texts[generated_from(query)], query.answers[0][0]) for query in queries)
            evidence = Evidence(texts=texts, cosines=cosines(model, pairs))
            scores = {name: RECORD_METRICS[name](case, evidence) for name in names}
            section = section.model_copy(update={"scores": {**section.scores, **scores}})
        extended.append(section)
    return extended


def broken(case: Case, unedited: Section) -> Section:
    """Return the scores on a model that can't be scored: 0 for shares that should be high; others are missing.

    A share that the ``unedited`` model lacks is missing too, unless it compares with that model.
    """
    shares = [name for name, m in metrics_for(case).items() if (m.values, m.better) == ("0 to 1", "higher")]
    compared = (".unchanged", ".same_text")
    has = [name for name in shares if unedited.scores[name] is not None or name.endswith(compared)]
    return Section(scores=dict.fromkeys(has, 0.0), nll={}, texts={})


class UneditedScores:
    """The unedited model's sections, one file each in the cache folder; unknown ones are computed and stored.

    The file name is a hash of the model, the protocol and the case with its choices.
    """

    def __init__(self, model: LanguageModel, settings: Settings) -> None:
        named = {name: settings[name] for name in _DECIDES if name in settings}  # a model counts by its content
        named["model"] = {key: value for key, value in named["model"].items() if key != "name"}
        self._model, self._key, self._folder = model, digest(named), cache_folder() / "unedited"
        self._unwritten: dict[Path, Any] = {}

    def sections(self, cases: Mapping[str, Case]) -> dict[str, Section]:
        """Return the sections of ``cases``, by name."""
        stored = {
            name: section
            for name, case in cases.items()
            if (section := self._read(case, _SECTION)) and section.scores.keys() == metrics_for(case).keys()
        }  # without those from before a metric was added or removed
        # If some are missing, as after a kill, all are scored again: a resumed run rounds like an uninterrupted one.
        asked = tuple(cases.values()) if len(stored) < len(cases) else ()
        scored = in_halves(lambda chunk: score_cases(self._model, chunk), asked)
        sections = dict(zip(cases, with_cosines(self._model, asked, scored), strict=False))
        for name, section in sections.items():
            if name not in stored:
                self._write(cases[name], _SECTION, section)
        return {name: stored.get(name) or sections[name] for name in cases}

    def general(self, text: str) -> dict[str, float | None]:
        """Return general ability on ``text``."""
        return self._stored(text, _SCORES, lambda: general_scores(self._model, text))

    def quick(self, tasks: QuickTasks) -> dict[str, DocumentScores]:
        """Return the scores of the quick sets."""
        return self._stored(f"quick {digest(tasks.settings)}", _TASKS, lambda: tasks.scores(self._model))

    def replies(self, test: RetentionTest, *, chat: bool) -> list[Reply]:
        """Return the answers to a retention test, asked in plain text or in chat form."""
        name = f"retention {test.digest}" + (" in chat form" if chat else "")
        return self._stored(name, _REPLIES, lambda: test.replies(self._model.in_chat(chat=chat)))

    def _stored(self, name: str, kind: TypeAdapter[Stored], compute: Callable[[], Stored]) -> Stored:
        """Return what is stored under a name; compute and store it if it is unknown."""
        if (value := self._read(name, kind)) is None:
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
