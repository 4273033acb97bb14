"""Score a record on a model, all its metrics at once: one forward pass over all pairs, one batch of continuations."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

from kg_edit.edits import Edit
from kg_edit.evaluate.case import Case, Evidence
from kg_edit.evaluate.generation import continuations
from kg_edit.evaluate.predictions import predictions
from kg_edit.evaluate.questions import fact, recalled_fact
from kg_edit.evaluate.records import Section
from kg_edit.evaluate.sampling import samples
from kg_edit.evaluate.scoring import score_each
from kg_edit.language_model import LanguageModel
from kg_edit.patch import Patch
from kg_edit.patches.row_patches import wholly_patched
from kg_edit.patches.weight_patch import WeightPatch

ANSWER_TOKENS = 24  # the longest answer that a model may write
_REWRITE_TOKENS = 10  # at least; a long target may take more
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
        limits = dict.fromkeys(case.continued, ANSWER_TOKENS)
        limits |= {} if case.facts else {edit.text: _rewrite_tokens(model, edit) for edit in case.edits}
        for prompt, limit in limits.items():
            key = (place if patch else _UNEDITED, prompt)
            asked[key] = max(limit, asked.get(key, 0))
    worn = [None if place == _UNEDITED else patches[place] for place, _ in asked]
    prompts = [prompt for _, prompt in asked]
    found = dict(zip(asked, continuations(model, prompts, limits=tuple(asked.values()), patches=worn), strict=True))
    return [
        {prompt: found[place if patch else _UNEDITED, prompt] for prompt in case.continued}
        for place, (case, patch) in enumerate(zip(cases, patches, strict=True))
    ]


def ceiling_cases(case: Case) -> dict[str, Case]:
    """The same questions with the edited fact told first, and with the fact and the relation that leads to the answer.

    The second is there only if each question has its recalled relation.
    """
    edit = case.edit
    told = tuple(fact(edit) for _ in edit.portability)
    recalled = [question.recalled_relation for question in edit.portability]
    cases = {"fact_in_prompt": told} if told else {}
    if told and all(recalled):
        cases["fact_and_relation_in_prompt"] = tuple(
            f"{first} {recalled_fact(relation or '')}" for first, relation in zip(told, recalled, strict=True)
        )
    return {name: Case(edit=edit, choices=case.choices, facts=facts) for name, facts in cases.items()}


def _rewrite_tokens(model: LanguageModel, edit: Edit) -> int:
    target = model.tokenizer(edit.target_new, add_special_tokens=False)["input_ids"]
    return max(_REWRITE_TOKENS, len(target) + 2)


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
