"""Score a record on a model, all its metrics at once: one forward pass over all pairs, one batch of continuations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace

from kg_edit.evaluate.case import Case, Evidence
from kg_edit.evaluate.predictions import predictions
from kg_edit.evaluate.records import Section
from kg_edit.evaluate.sampling import samples
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.batched import wholly_patched
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.likelihood import score_each
from kg_edit.scoring.questions import fact, generated_from, recalled_fact

ANSWER_TOKENS = 24  # the longest answer that a model may write
_REWRITE_TOKENS = 10  # at least; a long target may take more
_SLACK = 2  # tokens more than a name has where it stands alone
_UNEDITED = -1


def score_cases(
    model: LanguageModel,
    cases: Sequence[Case],
    *,
    before: Sequence[Section] | None = None,
    patches: Sequence[Patch | None] | None = None,
) -> tuple[Section, ...]:
    """A section for each case, with the metrics that it has (see `Case.metrics`).

    ``before`` are the unedited model's sections of the same cases, where ``model`` is edited: metrics that compare the
    two models read them. With ``patches`` each case is scored on the model with the patch in its place,
    all together if they are patches of weights.

    Raises:
        ConfigError: an extra needs a package that is not installed.
        PromptError: a prompt and its target can't be told apart in tokens.
        ModelError: a model's output is not finite, or a prompt does not fit into its positions.
        PatchMismatchError: a patch is for another model.
    """
    earlier: Sequence[Section | None] = before or [None] * len(cases)
    own = _of_weights(patches or [None] * len(cases))
    if own is not None:
        return _together(model, cases, earlier, own)
    return tuple(
        section
        for case, unedited, patch in zip(cases, earlier, patches or (), strict=True)
        for section in _alone(model, case, unedited, patch)
    )


def _of_weights(patches: Sequence[Patch | None]) -> list[WeightPatch | None] | None:
    """The patches, if each is one of weights, so that they can share a pass."""
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
    """What each case's model writes after its prompts; a prompt that unedited cases share is asked once."""
    asked: dict[tuple[int, str], int] = {}
    for place, (case, patch) in enumerate(zip(cases, patches, strict=True)):
        for prompt, limit in _limits(model, case).items():
            key = (place if patch else _UNEDITED, prompt)
            asked[key] = max(limit, asked.get(key, 0))
    worn = [None if place == _UNEDITED else patches[place] for place, _ in asked]
    prompts = [prompt for _, prompt in asked]
    found = dict(zip(asked, continuations(model, prompts, limits=tuple(asked.values()), patches=worn), strict=True))
    return [
        {prompt: found[place if patch else _UNEDITED, prompt] for prompt in case.continued}
        for place, (case, patch) in enumerate(zip(cases, patches, strict=True))
    ]


def _limits(model: LanguageModel, case: Case) -> dict[str, int]:
    """The most tokens after each prompt; an edit's own gets few, unless an answer is looked for after it as well."""
    answered = case.answered
    limits = {prompt: ANSWER_TOKENS if prompt in answered else _REWRITE_TOKENS for prompt in case.continued}
    for prompt, name in _stated(case):
        length = len(model.tokenizer(name, add_special_tokens=False)["input_ids"])
        limits[prompt] = max(limits[prompt], length + _SLACK)
    return limits


def _stated(case: Case) -> Iterator[tuple[str, str]]:
    """Each edit's statement, with the target and with each name that its probes take for the target."""
    if case.facts:
        return
    yield from ((edit.text, edit.target_new) for edit in case.edits)
    queries = (query for probe in case.group("edit") for query in probe.queries)
    yield from ((generated_from(query), name) for query in queries for names in query.answers for name in names)


def ceiling_cases(case: Case) -> dict[str, Case]:
    """The same questions with the edited fact told first, and with the fact and the relation that leads to the answer.

    Of several edits each question is told the one that it is about. The second case is there only if each question has
    its recalled relation.
    """
    told = tuple(fact(edit) for edit in case.edits for _ in edit.portability)
    recalled = [question.recalled_relation for question in case.questions]
    cases = {"fact_in_prompt": told} if told else {}
    if told and all(recalled):
        cases["fact_and_relation_in_prompt"] = tuple(
            f"{first} {recalled_fact(relation or '')}" for first, relation in zip(told, recalled, strict=True)
        )
    asked = Case(edit=case.edit, further=case.further, choices=case.choices)
    return {name: replace(asked, facts=facts) for name, facts in cases.items()}


def _section(case: Case, evidence: Evidence, before: Section | None) -> Section:
    nll: dict[str, dict[str, float]] = {}
    for pair in case.pairs:
        nll.setdefault(pair.prompt, {})[pair.candidate] = evidence.scores[pair].nll
    predicted: dict[str, dict[str, tuple[int, ...]]] = {}
    for pair in case.predicted_pairs:
        predicted.setdefault(pair.prompt, {})[pair.candidate] = evidence.predicted[pair]
    compared = replace(evidence, before=_evidence_of(case, before) if before else None)
    return Section(
        scores={name: metric(case, compared) for name, metric in case.metrics.items()},
        nll=nll,
        texts={name: evidence.texts[prompt] for prompt, name in case.continued.items()},
        predicted=predicted,
        samples={prompt: evidence.samples[prompt] for prompt in case.sampled},
    )


def _evidence_of(case: Case, section: Section) -> Evidence:
    """What a section keeps of the evidence that it was made of."""
    found = [(pair, section.predicted.get(pair.prompt, {}).get(pair.candidate)) for pair in case.predicted_pairs]
    return Evidence(
        texts={prompt: section.texts[name] for prompt, name in case.continued.items() if name in section.texts},
        predicted={pair: tokens for pair, tokens in found if tokens is not None},
    )
