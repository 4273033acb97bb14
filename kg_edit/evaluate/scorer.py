"""Score cases on a model, with all metrics of a case at once: one forward pass for all pairs, one batch of
continuations.

Scores of the unedited model are kept in the cache folder, so a second method on the same records need not compute them.
If memory runs out, a batch is halved and tried again (`in_halves`), here and where many records are edited at once.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError
from pydantic_core import to_jsonable_python
from transformers import PreTrainedTokenizerBase

from kg_edit.datasets.record import Probe, Query
from kg_edit.edits.edit import Edit
from kg_edit.errors import ModelError, OutputError
from kg_edit.evaluate.case import Case
from kg_edit.evaluate.metrics.catalogue import metrics_for
from kg_edit.evaluate.metrics.metric import Evidence
from kg_edit.evaluate.records import Section
from kg_edit.evaluate.retention import Reply, RetentionTest
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.loading import cache_folder
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch, wholly_patched
from kg_edit.scoring.generation import continuations, room_for, samples
from kg_edit.scoring.likelihood import predictions, score_each
from kg_edit.scoring.perplexity import general_scores
from kg_edit.scoring.questions import fact, generated_from, recalled_fact
from kg_edit.storage.atomic import write_text
from kg_edit.storage.run_folder import Settings, digest

ANSWER_TOKENS = 24  # the longest answer that a model may write
STEP_TOKENS = 40  # the longest answer with written steps
_REWRITE_TOKENS = 10  # after an edit's own prompt, at least; a long target may take more
_UNEDITED = -1
# The settings on which an unedited model's scores of a case depend.
_DECIDES = (
    "model",
    "tokenizer_sha256",
    "protocols",
    "abbreviations",
    "question_form_sha256",
    "kg_edit",
    "chat_form_sha256",
)

log = logging.getLogger(__name__)
# Parts of the messages of out-of-memory errors, on the CPU and on accelerators.
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "failed to allocate")

Item = TypeVar("Item")
Result = TypeVar("Result")


def score_cases(
    model: LanguageModel,
    cases: Sequence[Case],
    *,
    before: Sequence[Section] | None = None,
    patches: Sequence[Patch | None] | None = None,
) -> tuple[Section, ...]:
    """Return a section for each case, with the metrics that the case has (see `metrics_for`).

    ``before`` are the unedited model's sections of the same cases, if ``model`` is edited; metrics that compare the two
    models need them. With ``patches``, each case is scored on the model with its patch applied; patches of weights are
    scored together.

    Raises:
        PromptError: a prompt and its target can't be separated in tokens.
        ModelError: a model's output is not finite, or a prompt does not fit into its positions.
        PatchMismatchError: a patch is for another model.
        ChatTemplateError: a case is asked in chat form, and the tokenizer has no chat template.
    """
    earlier: Sequence[Section | None] = before or [None] * len(cases)
    all_patches: Sequence[Patch | None] = patches or [None] * len(cases)
    found: dict[int, Section] = {}
    for chat in sorted({case.chat for case in cases}):
        places = [place for place, case in enumerate(cases) if case.chat == chat]
        some = [cases[place] for place in places]
        unedited, own = [earlier[place] for place in places], [all_patches[place] for place in places]
        found |= zip(places, _in_one_form(model.in_chat() if chat else model, some, unedited, own), strict=True)
    return tuple(found[place] for place in range(len(cases)))


def _in_one_form(
    model: LanguageModel, cases: Sequence[Case], before: Sequence[Section | None], patches: Sequence[Patch | None]
) -> tuple[Section, ...]:
    """The sections of cases that are all asked in ``model``'s form, plain or chat."""
    own = _of_weights(patches)
    if own is not None:
        return _together(model, cases, before, own)
    return tuple(
        section
        for case, unedited, patch in zip(cases, before, patches, strict=True)
        for section in _alone(model, case, unedited, patch)
    )


def _of_weights(patches: Sequence[Patch | None]) -> list[WeightPatch | None] | None:
    """The patches, if all are weight patches, so that they can share a forward pass; else None."""
    own = [patch for patch in patches if patch is None or isinstance(patch, WeightPatch)]
    return own if len(own) == len(patches) else None


def _alone(model: LanguageModel, case: Case, before: Section | None, patch: Patch | None) -> tuple[Section, ...]:
    with patch.applied(model) if patch else nullcontext(model) as edited:
        return _together(edited, [case], [before], [None])


def _together(
    model: LanguageModel,
    cases: Sequence[Case],
    before: Sequence[Section | None],
    patches: Sequence[WeightPatch | None],
) -> tuple[Section, ...]:
    model.foresee(text for case in cases for text in (*(pair.prompt for pair in case.pairs), *case.continued))
    scores = score_each(model, [case.pairs for case in cases], patches=patches)
    texts = _texts(model, cases, patches)
    sections = []
    for case, patch, found, written, unedited in zip(cases, patches, scores, texts, before, strict=True):
        with wholly_patched(model, patch):
            predicted, sampled = predictions(model, case.predicted_pairs), samples(model, case.sampled)
        evidence = Evidence(scores=found, texts=written, predicted=predicted, samples=sampled)
        sections.append(_section(case, evidence, unedited))
    return tuple(sections)


def _texts(model: LanguageModel, cases: Sequence[Case], patches: Sequence[WeightPatch | None]) -> list[dict[str, str]]:
    """The texts of each case's model after its prompts; a prompt that several unedited cases share is asked once."""
    asked: dict[tuple[int, str], int] = {}
    for place, (case, patch) in enumerate(zip(cases, patches, strict=True)):
        for prompt, limit in text_limits(model.tokenizer, case).items():
            key = (place if patch else _UNEDITED, prompt)
            asked[key] = max(limit, asked.get(key, 0))
    own_patches = [None if place == _UNEDITED else patches[place] for place, _ in asked]
    prompts = [prompt for _, prompt in asked]
    texts = continuations(model, prompts, limits=tuple(asked.values()), patches=own_patches)
    found = dict(zip(asked, texts, strict=True))
    return [
        {prompt: found[place if patch else _UNEDITED, prompt] for prompt in case.continued}
        for place, (case, patch) in enumerate(zip(cases, patches, strict=True))
    ]


def text_limits(tokenizer: PreTrainedTokenizerBase, case: Case) -> dict[str, int]:
    """The token limit after each prompt; small for an edit's own prompt, unless an answer is expected after it.

    A prompt has room for each name that counts as an answer to it.
    """
    limits = dict.fromkeys(case.continued, ANSWER_TOKENS if case.chat else _REWRITE_TOKENS)
    limits |= dict.fromkeys(case.answered, ANSWER_TOKENS) | dict.fromkeys(case.stepped, STEP_TOKENS)
    for prompt, name in _accepted(case):
        if prompt in limits:
            limits[prompt] = max(limits[prompt], room_for(tokenizer, name))
    return limits


def _accepted(case: Case) -> Iterator[tuple[str, str]]:
    """Yield each edit's statement with its target, and each prompt of a probe with each name that is accepted."""
    if not case.ceiling:
        yield from ((edit.text, edit.target_new) for edit in case.edits)
    queries = (query for probe in case.probes for query in probe.queries)
    yield from ((generated_from(query), name) for query in queries for names in query.answers for name in names)


def ceiling_cases(case: Case) -> dict[str, Case]:
    """The same questions with the edited fact told first, and with both the fact and the relation that leads to the
    answer.

    If a record has several edits, a question is told the edit that it is about; a probe's query is told all of them.
    The second case exists only if each question has a recalled relation.
    """
    told = tuple(fact(edit) for edit in case.edits for _ in edit.portability)
    recalled = [question.recalled_relation for question in case.questions]
    follows = [probe for probe in case.probes if any(query.recalled for query in probe.queries)]
    found: dict[str, Case] = {}
    asked = Case(edit=case.edit, further=case.further, choices=case.choices, ceiling=True, chat=case.chat)
    if told or follows:
        found["fact_in_prompt"] = replace(asked, facts=told, probes=_told(follows, case.edits, recalled=False))
    if found and all(recalled):
        both = tuple(f"{one} {recalled_fact(relation or '')}" for one, relation in zip(told, recalled, strict=True))
        probes = _told(follows, case.edits, recalled=True)
        found["fact_and_relation_in_prompt"] = replace(asked, facts=both, probes=probes)
    return found


def _told(probes: Iterable[Probe], edits: Sequence[Edit], *, recalled: bool) -> tuple[Probe, ...]:
    """The probes with the edits' facts before each question, and with the recalled facts if ``recalled``."""
    facts = " ".join(map(fact, edits))
    return tuple(
        probe.model_copy(
            update={"queries": tuple(_told_query(query, facts, recalled=recalled) for query in probe.queries)}
        )
        for probe in probes
    )


def _told_query(query: Query, facts: str, *, recalled: bool) -> Query:
    """The query after ``facts``; its examples too are told their first hop, or all hops if ``recalled``.

    Without that, the model would have to guess the purpose of a fact before a question.
    """
    told = f"{facts} {query.recalled}".strip() if recalled else facts
    hops = [len(example.facts) if recalled else min(1, max(0, len(example.facts) - 1)) for example in query.examples]
    examples = [example.with_facts(count) for example, count in zip(query.examples, hops, strict=True)]
    return query.model_copy(update={"told": told, "examples": tuple(examples)})


def _section(case: Case, evidence: Evidence, before: Section | None) -> Section:
    nll: dict[str, dict[str, float]] = {}
    for pair in case.pairs:
        nll.setdefault(pair.prompt, {})[pair.candidate] = evidence.scores[pair].nll
    predicted: dict[str, dict[str, tuple[int, ...]]] = {}
    for pair in case.predicted_pairs:
        predicted.setdefault(pair.prompt, {})[pair.candidate] = evidence.predicted[pair]
    compared = replace(evidence, before=_evidence_of(case, before) if before else None)
    return Section(
        scores={name: metric(case, compared) for name, metric in metrics_for(case).items()},
        nll=nll,
        texts={name: evidence.texts[prompt] for prompt, name in case.continued.items()},
        predicted=predicted,
        samples={prompt: evidence.samples[prompt] for prompt in case.sampled},
    )


def broken(case: Case) -> Section:
    """The scores on a model whose output is not finite: 0 for each share where more is better; others are missing."""
    shares = {name: 0.0 for name, one in metrics_for(case).items() if (one.values, one.better) == ("0 to 1", "higher")}
    return Section(scores=shares, nll={}, texts={})


def _evidence_of(case: Case, section: Section) -> Evidence:
    """The part of the evidence that a section keeps."""
    found = [(pair, section.predicted.get(pair.prompt, {}).get(pair.candidate)) for pair in case.predicted_pairs]
    return Evidence(
        texts={prompt: section.texts[name] for prompt, name in case.continued.items() if name in section.texts},
        predicted={pair: tokens for pair, tokens in found if tokens is not None},
    )


class UneditedScores:
    """A store of the unedited model's sections, one file each under ``folder``.

    The file name is a hash of the model, the protocol and the case with its choices.
    """

    def __init__(self, settings: Settings, *, folder: Path | None = None) -> None:
        named = {name: settings[name] for name in _DECIDES if name in settings}
        named["model"] = {key: value for key, value in named["model"].items() if key != "name"}
        self._unwritten: dict[str, Section] = {}
        self._key, self._folder = digest(named), folder or cache_folder() / "unedited"

    def sections(self, model: LanguageModel, cases: Mapping[str, Case]) -> dict[str, Section]:
        """The sections of ``cases`` (by name) on ``model``; unknown ones are scored now and stored."""
        known = {name: section for name, case in cases.items() if (section := self._read(case))}
        asked = {name: case for name, case in cases.items() if name not in known}
        scored = in_halves(lambda some: score_cases(model, some), tuple(asked.values())) if asked else []
        for case, section in zip(asked.values(), scored, strict=True):
            self._write(case, section)
        found = known | dict(zip(asked, scored, strict=True))
        return {name: found[name] for name in cases}

    def general(self, model: LanguageModel, text: str) -> dict[str, float | None]:
        """General ability on ``text``; computed and stored if unknown."""
        known = self._read(text)
        if known is None:
            known = Section(scores=general_scores(model, text), nll={}, texts={})
            self._write(text, known)
        return known.scores

    def replies(self, model: LanguageModel, test: RetentionTest) -> list[Reply]:
        """The unedited model's answers to a retention test, in its form; computed and stored if unknown."""
        name = f"retention {test.digest}" + (" in chat form" if model.chat else "")
        known = self._read(name)
        if known is None:
            found = test.replies(model)
            right: dict[str, float | None] = {str(n): float(reply.right) for n, reply in enumerate(found)}
            known = Section(scores=right, nll={str(n): {"": reply.nll} for n, reply in enumerate(found)}, texts={})
            self._write(name, known)
        return [Reply(bool(known.scores[n]), losses[""]) for n, losses in known.nll.items()]

    def _file(self, asked: Case | str) -> Path:
        said = to_jsonable_python(asked)
        if isinstance(asked, Case) and not asked.chat:
            del said["chat"]  # a case in plain text keeps the file name of earlier versions
        name = digest([self._key, said])
        return self._folder / name[:2] / f"{name}.json"

    def _read(self, asked: Case | str) -> Section | None:
        file = self._file(asked)
        try:
            return Section.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):  # absent or damaged: it is scored and written again
            return self._unwritten.get(file.name)

    def _write(self, asked: Case | str, section: Section) -> None:
        try:
            write_text(self._file(asked), section.model_dump_json() + "\n")
        except OutputError as error:  # with a full or read-only cache, only the next run is slower
            log.warning("can't write scores of the unedited model to the cache: %s", error)
            self._unwritten[self._file(asked).name] = section


def in_halves(call: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]) -> list[Result]:
    """Return ``call(items)``; if memory runs out, call it for each half of the items, and so on.

    Raises:
        ModelError: there is not enough memory for one item.
    """
    try:
        return list(call(items))
    except (RuntimeError, MemoryError) as error:
        failure = memory_failure(error)  # made here, because the error keeps the tensors of the failed call alive
    release()
    if len(items) == 1:
        raise failure
    middle = len(items) // 2
    return [*in_halves(call, items[:middle]), *in_halves(call, items[middle:])]


def memory_failure(error: Exception) -> ModelError:
    """Turn an out-of-memory error into a ModelError with a clear message; raise any other ``error``."""
    said = str(error).casefold()
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(words in said for words in _NO_MEMORY):
        raise error
    first = (str(error).splitlines() or ["MemoryError"])[0]
    return ModelError(
        f"out of memory even for a batch of one: {first}; use a smaller model, or a machine with more memory"
    )


def release() -> None:
    """Free the memory that a failed call's tensors still hold, on the CPU and on the accelerator."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
