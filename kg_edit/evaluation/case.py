"""A case is a record in the form in which it is scored: its edits, probes, and the forms of its questions.

A case knows no metric: what the model is asked about it follows from its metrics (`kg_edit.evaluation.metrics`).

`make_ceiling_cases` makes the cases that show what a model could answer if it had learned the facts: the unedited model
reads the facts before each question. To answer a portability question, a model has to know the edited fact, and to
recall another fact that leads from the new target to the answer. That other fact is the recalled one (the field
``recalled_relation`` of a question, and ``recalled`` of a probe's query). With the edit "The Eiffel Tower is in Rome",
and the recalled relation "(Rome, country, Italy)", the prompts are

    fact_in_prompt                             fact_and_relation_in_prompt

    The Eiffel Tower is in Rome.               The Eiffel Tower is in Rome. Rome country Italy.
    Question: In which country is the tower?   Question: In which country is the tower?
    Answer:                                    Answer:
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from kg_edit.edits.edit import Edit, Question
from kg_edit.edits.record import BenchmarkRecord, Example, Probe, Query, as_record
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
        further: the record's other edits, which are made together with the first.
        probes: the prompts and questions that the record has besides those of its edits.
        choices: the answers to choose from, for each of `questions`; () if there are none.
        facts: the text in front of each of `questions`; () if there is none.
        extras: the names of the costly metrics that are scored too.
        references: the texts with which the metric consistency.tfidf compares the model's text.
        ceiling: the case is one of `make_ceiling_cases`, so only its questions and probes are asked.
        chat: each prompt is asked as a user's turn of a chat.
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
        categorised = list[Probe]()
        for edit in full_record.edits:
            for question in edit.portability:
                if question.category:
                    category = f"portability.{question.category}"
                    query = query_of(question, language=edit.language)
                    categorised.append(Probe(measures=category, queries=(query,)))
        in_chat = [is_asked_in_chat(edit, chat=chat) for edit in full_record.edits]
        return cls(
            edit=first,
            further=tuple(further),
            probes=(*full_record.probes, *categorised),
            choices=choices,
            extras=extras,
            references=full_record.references,
            chat=any(in_chat),
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

    def group(self, family_or_category: str) -> tuple[Probe, ...]:
        """Return the probes of a family such as portability, or of a category such as portability.Reasoning."""
        return tuple(probe for probe in self.probes if family_or_category in (probe.family, probe.measures))

    def queries(self, family_or_category: str) -> tuple[Query, ...]:
        """Return the queries of all probes of a family or category."""
        queries = list[Query]()
        for probe in self.group(family_or_category):
            queries += probe.queries
        return tuple(queries)

    @property
    def prompts(self) -> tuple[str, ...]:
        """Each portability question in the plain form, after its fact if it has one."""
        return self._format_questions(format_question)

    @property
    def few_shot_prompts(self) -> tuple[str, ...]:
        """Each portability question in the few-shot form, after its fact if it has one."""
        return self._format_questions(format_question_with_shots)

    @property
    def answer_pairs(self) -> list[Pair]:
        """Each question in its plain form with its answer."""
        pairs = list[Pair]()
        for prompt, question in zip(self.prompts, self.questions, strict=True):
            pairs.append(Pair(prompt, question.answer))
        return pairs

    def _format_questions(self, format_one: Callable[..., str]) -> tuple[str, ...]:
        """Return each portability question in a form, in the language of its edit; its fact is "" if there is none."""
        facts = self.facts
        if not facts:
            facts = ("",) * len(self.questions)
        languages = list[str]()
        for edit in self.edits:
            languages += [edit.language] * len(edit.plain_questions)
        prompts = list[str]()
        for question, fact, language in zip(self.questions, facts, languages, strict=True):
            prompts.append(format_one(question.question, fact, language=language))
        return tuple(prompts)


def is_asked_in_chat(edit: Edit, *, chat: bool | None) -> bool:
    """Return whether an edit's prompts are asked in chat form; ``chat`` None: in the form in which the edit is made.

    An edit that is made in both forms is asked in plain text.
    """
    if chat is None:
        return edit.chat is True
    return chat


def make_ceiling_cases(case: Case) -> dict[str, Case]:
    """Return the same questions after the edited facts, and after both the edited and the recalled facts.

    If a record has several edits, a question comes after the edit that it is about; a probe's query comes after all of
    them. The only probes are those with recalled facts.

    Returns:
        ``fact_in_prompt``, and ``fact_and_relation_in_prompt`` unless a question has no recalled relation. An empty
        dict if the case has neither portability questions nor probes with recalled facts.
    """
    facts = list[str]()  # for each question, the fact of its edit
    for edit in case.edits:
        facts += [fact_sentence(edit)] * len(edit.plain_questions)
    multi_hop = [probe for probe in case.probes if _has_recalled(probe)]
    if not facts and not multi_hop:
        return {}

    base = Case(edit=case.edit, further=case.further, choices=case.choices, ceiling=True, chat=case.chat)
    cases = {"fact_in_prompt": _put_facts_first(base, facts, multi_hop)}
    if all(question.recalled_relation for question in case.questions):
        cases["fact_and_relation_in_prompt"] = _put_facts_and_relations_first(base, facts, multi_hop)
    return cases


def _put_facts_first(base: Case, facts: Sequence[str], multi_hop: Sequence[Probe]) -> Case:
    """Return the case ``base`` with a fact in front of each question, and with these probes after all facts."""
    probes = _put_facts_before_probes(multi_hop, base.edits, with_recalled=False)
    return replace(base, facts=tuple(facts), probes=probes)


def _put_facts_and_relations_first(base: Case, facts: Sequence[str], multi_hop: Sequence[Probe]) -> Case:
    """Return what `_put_facts_first` returns, with the recalled fact after the fact of each question and probe."""
    facts_and_relations = list[str]()
    for fact, question in zip(facts, base.questions, strict=True):
        assert question.recalled_relation is not None  # noqa: S101 - `make_ceiling_cases` checked it
        facts_and_relations.append(f"{fact} {recalled_fact(question.recalled_relation)}")
    probes = _put_facts_before_probes(multi_hop, base.edits, with_recalled=True)
    return replace(base, facts=tuple(facts_and_relations), probes=probes)


def _has_recalled(probe: Probe) -> bool:
    """Return whether some query of a probe has a recalled fact."""
    return any(query.recalled for query in probe.queries)


def _put_facts_before_probes(
    probes: Iterable[Probe], edits: Sequence[Edit], *, with_recalled: bool
) -> tuple[Probe, ...]:
    """Return the probes with the facts of all edits before each query, and its recalled facts after them if asked."""
    facts = " ".join(fact_sentence(edit) for edit in edits)
    extended = list[Probe]()
    for probe in probes:
        queries = tuple(_put_facts_before(query, facts, with_recalled=with_recalled) for query in probe.queries)
        extended.append(probe.model_copy(update={"queries": queries}))
    return tuple(extended)


def _put_facts_before(query: Query, facts: str, *, with_recalled: bool) -> Query:
    """Return the query with ``facts`` as its context, followed by its recalled facts if ``with_recalled``.

    Its examples get their own facts as context. Without them, the model would have to guess the purpose of the facts
    before the question.
    """
    context = facts
    if with_recalled:
        context = f"{facts} {query.recalled}".strip()
    examples = list[Example]()
    for example in query.examples:
        example_facts = _choose_example_facts(example, with_recalled=with_recalled)
        examples.append(example.model_copy(update={"context": " ".join(example_facts)}))
    return query.model_copy(update={"context": context, "examples": tuple(examples)})


def _choose_example_facts(example: Example, *, with_recalled: bool) -> tuple[str, ...]:
    """Return the facts that come before an example's question: as many as come before the case's own question.

    An example has one fact for each hop. The first corresponds to the edited fact, the others to the recalled ones,
    and the last states the answer. With recalled facts, the example gets all of them. Without, it gets the first alone,
    and none if the first is also the last, because it would state the answer.
    """
    if with_recalled:
        return example.facts
    if len(example.facts) > 1:
        return example.facts[:1]
    return ()
