"""A case is a record in the form in which it is scored: its edits, probes, and the forms of its questions.

A case knows no metric: what the model is asked about it follows from its metrics (`kg_edit.evaluation.metrics`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Self

from kg_edit.edits.edit import Edit, Question
from kg_edit.edits.record import BenchmarkRecord, Probe, Query, as_record
from kg_edit.scoring.pairs import Pair
from kg_edit.scoring.questions import (
    fact_sentence,
    format_question,
    format_question_with_shots,
    query_of,
    recalled_fact,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A record to be scored.

    Attributes:
        edit: the record's first edit.
        further: the edits made together with it.
        probes: further prompts and questions.
        choices: for each portability question, the answers to choose from.
        facts: for each portability question, the facts in front of it.
        extras: names of costly metrics to score as well.
        references: the texts with which consistency.tfidf compares.
        ceiling: ask only the questions, after the facts: what could a model answer that has learned the facts?
        chat: ask each prompt as a user's turn.
    """

    edit: Edit
    further: tuple[Edit, ...] = ()
    probes: tuple[Probe, ...] = ()
    choices: tuple[tuple[str, ...], ...] = ()
    facts: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    ceiling: bool = False
    chat: bool = False

    @classmethod
    def of(
        cls,
        record: Edit | BenchmarkRecord,
        *,
        choices: tuple[tuple[str, ...], ...] = (),
        extras: tuple[str, ...] = (),
        chat: bool | None = None,
    ) -> Self:
        """Return the case with all prompts that a record measures; questions of a category are probes, as in KnowEdit.

        ``chat`` None: ask in the form in which the record's edits are made.
        """
        full_record = as_record(record)
        first, *further = full_record.edits
        categorised = []
        for edit in full_record.edits:
            for question in edit.portability:
                if question.category:
                    group = f"portability.{question.category}"
                    categorised.append(Probe(measures=group, queries=(query_of(question),)))
        if chat is None:
            chat = any(edit.forms[0] for edit in full_record.edits)
        return cls(
            edit=first,
            further=tuple(further),
            probes=(*full_record.probes, *categorised),
            choices=choices,
            extras=extras,
            references=full_record.references,
            chat=chat,
        )

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits that the record makes together, beginning with its first one."""
        return (self.edit, *self.further)

    @property
    def questions(self) -> tuple[Question, ...]:
        """The portability questions of the edits, of no category."""
        questions = list[Question]()
        for edit in self.edits:
            questions += edit.plain_questions
        return tuple(questions)

    def group(self, name: str) -> tuple[Probe, ...]:
        """Return the probes of a family, or of one of its sub-categories."""
        return tuple(probe for probe in self.probes if name in (probe.family, probe.measures))

    def queries(self, name: str) -> tuple[Query, ...]:
        """Return the queries of the probes in `group`."""
        return tuple(chain.from_iterable(probe.queries for probe in self.group(name)))

    @property
    def prompts(self) -> tuple[str, ...]:
        """Each portability question in the plain form, after its fact if it has one."""
        return self._ask(format_question)

    @property
    def few_shot_prompts(self) -> tuple[str, ...]:
        """Each portability question in the few-shot form, after its fact if it has one."""
        return self._ask(format_question_with_shots)

    @property
    def answer_pairs(self) -> list[Pair]:
        """Each question in its plain form with its answer."""
        pairs = []
        for prompt, question in zip(self.prompts, self.questions, strict=True):
            pairs.append(Pair(prompt, question.answer))
        return pairs

    def _ask(self, form: Callable[[str, str], str]) -> tuple[str, ...]:
        """Each portability question as ``form(question, fact)``; the fact is "" if the case has none."""
        facts: Sequence[str] = self.facts or ("",) * len(self.questions)
        prompts = []
        for question, fact in zip(self.questions, facts, strict=True):
            prompts.append(form(question.question, fact))
        return tuple(prompts)


def ceiling_cases(case: Case) -> dict[str, Case]:
    """Return the same questions with the edited fact before each, and with both the fact and the recalled relation.

    If a record has several edits, a question comes after the edit that it is about; a probe's query comes after all of
    them. The second case exists only if each question has a recalled relation.

    Returns:
        ``fact_in_prompt`` and ``fact_and_relation_in_prompt``, as far as they exist.
    """
    facts = []  # for each question, the fact of its edit
    for edit in case.edits:
        facts += [fact_sentence(edit)] * len(edit.plain_questions)
    multi_hop = [probe for probe in case.probes if _has_recalled(probe)]
    if not facts and not multi_hop:
        return {}
    base = Case(edit=case.edit, further=case.further, choices=case.choices, ceiling=True, chat=case.chat)
    probes = _after_facts(multi_hop, case.edits, recalled=False)
    cases = {"fact_in_prompt": replace(base, facts=tuple(facts), probes=probes)}

    relations = [question.recalled_relation for question in case.questions]
    if all(relations):
        facts_and_relations = []
        for fact, relation in zip(facts, relations, strict=True):
            facts_and_relations.append(f"{fact} {recalled_fact(relation or '')}")
        probes = _after_facts(multi_hop, case.edits, recalled=True)
        cases["fact_and_relation_in_prompt"] = replace(base, facts=tuple(facts_and_relations), probes=probes)
    return cases


def _has_recalled(probe: Probe) -> bool:
    """Whether some query of a probe has a recalled fact."""
    return any(query.recalled for query in probe.queries)


def _after_facts(probes: Iterable[Probe], edits: Sequence[Edit], *, recalled: bool) -> tuple[Probe, ...]:
    """The probes with the edits' facts before each question, and with the recalled facts if ``recalled``."""
    facts = " ".join(map(fact_sentence, edits))
    extended = []
    for probe in probes:
        queries = tuple(_after_sentences(query, facts, recalled=recalled) for query in probe.queries)
        extended.append(probe.model_copy(update={"queries": queries}))
    return tuple(extended)


def _after_sentences(query: Query, facts: str, *, recalled: bool) -> Query:
    """The query after ``facts``, and after its recalled facts if ``recalled``; its examples likewise.

    If the examples had no facts before them, the model would have to guess the purpose of the facts before the
    question. An example's facts are one for each hop. Without ``recalled`` it gets the first of them, unless that is
    also the last one, which states the answer.
    """
    context = facts
    if recalled:
        context = f"{facts} {query.recalled}".strip()
    examples = []
    for example in query.examples:
        hops = example.facts
        if not recalled:
            hops = example.facts[:-1][:1]
        examples.append(example.model_copy(update={"context": " ".join(hops)}))
    return query.model_copy(update={"context": context, "examples": tuple(examples)})
