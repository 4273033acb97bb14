"""Score a record on a model, all its metrics at once: one forward pass over all pairs, one batch of continuations."""

from __future__ import annotations

from collections.abc import Sequence

from kg_edit.edits import Edit
from kg_edit.evaluate.case import Case, Evidence
from kg_edit.evaluate.generation import continuations
from kg_edit.evaluate.metrics import METRICS, PORTABILITY
from kg_edit.evaluate.questions import fact, recalled_fact
from kg_edit.evaluate.records import Section
from kg_edit.evaluate.scoring import score
from kg_edit.language_model import LanguageModel

ANSWER_TOKENS = 24  # the longest answer that a model may write
_REWRITE_TOKENS = 10  # at least; a long target may take more


def score_cases(model: LanguageModel, cases: Sequence[Case]) -> tuple[Section, ...]:
    """A section for each case, with the metrics in `METRICS` (those in `PORTABILITY` for a case with facts).

    Raises:
        PromptError: a prompt and its target can't be told apart in tokens.
        ModelError: the model's output is not finite, or a prompt does not fit into its positions.
    """
    limits: dict[str, int] = {}
    for case in cases:
        limits |= dict.fromkeys(case.few_shot_prompts, ANSWER_TOKENS)
        limits |= {} if case.facts else {case.edit.text: _rewrite_tokens(model, case.edit)}
    evidence = Evidence(
        scores=score(model, [pair for case in cases for pair in case.pairs]),
        texts=dict(zip(limits, continuations(model, tuple(limits), limits=tuple(limits.values())), strict=True)),
    )
    return tuple(_section(case, evidence) for case in cases)


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


def _section(case: Case, evidence: Evidence) -> Section:
    nll: dict[str, dict[str, float]] = {}
    for pair in case.pairs:
        nll.setdefault(pair.prompt, {})[pair.candidate] = evidence.scores[pair].nll
    questions = [question.question for question in case.edit.portability]
    texts = dict(zip(questions, map(evidence.texts.__getitem__, case.few_shot_prompts), strict=True))
    if not case.facts:
        texts[case.edit.text] = evidence.texts[case.edit.text]
    metrics = PORTABILITY if case.facts else METRICS
    return Section(scores={name: metric(case, evidence) for name, metric in metrics.items()}, nll=nll, texts=texts)
