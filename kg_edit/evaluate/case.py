"""A case, which is a record as it is scored: the prompts that the model is asked because of its edits and its probes.

A case knows no metric: it says which texts are continued, scored, predicted or sampled; metrics read what comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from kg_edit.datasets.record import BenchmarkRecord, Probe, Query, as_record
from kg_edit.edits.edit import Edit, Question
from kg_edit.scoring.likelihood import Pair
from kg_edit.scoring.questions import (
    ANSWER,
    format_question,
    format_question_with_shots,
    generated_from,
    pair_of,
    right_answers,
    scored_after,
    stepped_from,
)

Asked = Literal["continuation", "steps", "first answer", "all answers", "gains", "predicted tokens"]
"""What a model is asked about a query: its greedy continuation, the same with the steps written out, the likelihood of
the first right answer, that of all right and rival answers, the same without the question too, or the arg-max tokens at
the first right answer's places."""

EVIDENCE: Mapping[str, frozenset[Asked]] = {
    "edit": frozenset({"continuation"}),
    "efficacy": frozenset({"first answer"}),
    "accurate": frozenset({"first answer"}),
    "hallucination": frozenset({"first answer", "all answers"}),
    "hops": frozenset({"continuation"}),
    "inference": frozenset({"all answers"}),
    "locality": frozenset({"continuation", "first answer", "predicted tokens"}),
    "multihop": frozenset({"continuation", "all answers"}),
    "paraphrase": frozenset({"continuation", "first answer"}),
    "portability": frozenset({"continuation", "first answer"}),
    "recall": frozenset({"continuation"}),
    "ripple": frozenset({"continuation"}),
    "ripples-edit": frozenset({"continuation"}),
    "ripples-known": frozenset({"continuation", "steps", "first answer", "all answers", "gains"}),
    "ripples-more": frozenset({"continuation", "first answer"}),
    "ripples-stay": frozenset({"continuation"}),
    "ripples-unknown": frozenset({"continuation", "steps", "first answer", "all answers", "gains"}),
    "sentiment": frozenset({"all answers"}),
    "span": frozenset({"first answer"}),
    "specificity": frozenset({"first answer"}),
}
"""What is asked about the probes of each family; of a family that is not here (generation) the extras alone ask."""

TEACHER_FORCED = frozenset({"efficacy", "locality", "paraphrase", "portability"})
"""The families of which some metric counts the arg-max tokens of the first right answer."""

FUZZY = "portability.glame_fuzzy"
FLUENCY, CONSISTENCY = "fluency.ngram_entropy", "consistency.tfidf"
FUZZY_SUFFIX = " The answer, most simply, is"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A record to be scored: its edits and probes; answers to choose from and facts to tell, one a question.

    ``edit`` is the record's first edit, ``further`` are those made together with it. A ``ceiling`` tells facts before
    its questions, and is about these alone: it asks what a model could answer that has learned the facts. ``extras``
    names costly metrics that are scored as well; ``references`` are the texts that consistency.tfidf compares with.
    ``chat``: each prompt is asked as a user's turn.
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
        """The case that asks all that a record measures; ``chat`` None: in the form in which its edits are made."""
        whole = as_record(record)
        first, *further = whole.edits
        return cls(
            edit=first,
            further=tuple(further),
            probes=whole.probes,
            choices=choices,
            extras=extras,
            references=whole.references,
            chat=any(edit.forms[0] for edit in whole.edits) if chat is None else chat,
        )

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits that the record makes together, its first one first."""
        return (self.edit, *self.further)

    @property
    def questions(self) -> tuple[Question, ...]:
        """The portability questions of the edits."""
        return tuple(question for edit in self.edits for question in edit.portability)

    def group(self, name: str) -> tuple[Probe, ...]:
        """The probes of a family, or of one of its sub-categories."""
        return tuple(probe for probe in self.probes if name in (probe.family, probe.measures))

    @property
    def prompts(self) -> tuple[str, ...]:
        """Each portability question in the plain form, after its fact where one is told."""
        return self._ask(format_question)

    @property
    def few_shot_prompts(self) -> tuple[str, ...]:
        """Each portability question in the few-shot form, after its fact where one is told."""
        return self._ask(format_question_with_shots)

    @property
    def answer_pairs(self) -> list[Pair]:
        """Each question's answer after its plain form."""
        answers = (question.answer for question in self.questions)
        return list(map(Pair, self.prompts, answers))

    @property
    def pairs(self) -> list[Pair]:
        """All whose likelihood the metrics of this case look at."""
        choices = [
            Pair(prompt, answer)
            for question, answers in zip(self.prompts, self.choices, strict=False)
            for answer in answers
            for prompt in (question, ANSWER)
        ]
        if self.ceiling:
            return [*self.answer_pairs, *choices, *self._probe_pairs]
        return [*self._fact_pairs, *self.answer_pairs, *choices, *self._probe_pairs]

    @property
    def forced_pairs(self) -> list[Pair]:
        """Those of `pairs` whose arg-max tokens are counted, given the right ones before them."""
        probed = (query for probe in self.probes if probe.family in TEACHER_FORCED for query in probe.queries)
        return [*self.answer_pairs, *map(pair_of, probed)]

    @property
    def predicted_pairs(self) -> list[Pair]:
        """Those whose arg-max tokens are compared with the unedited model's."""
        return [pair_of(query) for query in self._queries("predicted tokens")]

    @property
    def continued(self) -> dict[str, str]:
        """Each text that the model goes on with greedily, to the name that its continuation has in a section."""
        own = {} if self.ceiling else {edit.text: edit.text for edit in self.edits}
        return {**self._asked, **own, **self._probed}

    @property
    def answered(self) -> frozenset[str]:
        """Those of `continued` after which a question, a probe or a condition looks for its answer."""
        return frozenset([*self._asked, *self._probed])

    @property
    def sampled(self) -> tuple[str, ...]:
        """The texts that the model goes on with by sampling, for the extras."""
        return sampled_prompts(self)

    @property
    def _asked(self) -> dict[str, str]:
        return dict(zip(self.few_shot_prompts, (question.question for question in self.questions), strict=True))

    @property
    def _probed(self) -> dict[str, str]:
        conditions = (query for probe in self.probes for query in probe.conditions)
        direct = {generated_from(query): scored_after(query) for query in (*self._queries("continuation"), *conditions)}
        return {**direct, **{prompt: prompt for prompt in self.stepped}}

    @property
    def stepped(self) -> frozenset[str]:
        """Those of `continued` after which the answer comes at the end of its steps."""
        return frozenset(stepped_from(query) for query in self._queries("steps"))

    @property
    def _fact_pairs(self) -> list[Pair]:
        return [
            Pair(prompt.rstrip(), target)
            for edit in self.edits
            for prompt in (edit.text, *edit.paraphrases, *edit.neighborhood)
            for target in (edit.target_new, edit.target_true)
            if target
        ]

    @property
    def _probe_pairs(self) -> list[Pair]:
        first = [pair_of(query) for query in self._queries("first answer")]
        every = [
            Pair(scored_after(query), candidate)
            for query in self._queries("all answers")
            for candidate in (*(names[0] for names in query.answers), *query.others)
        ]
        alone = [
            Pair(ANSWER, candidate)
            for query in self._queries("gains")
            for candidate in (query.answers[0][0], *query.others)
        ]
        return [*first, *every, *alone]

    def _queries(self, asked: Asked) -> Iterator[Query]:
        return (query for probe in self.probes if asked in EVIDENCE.get(probe.family, ()) for query in probe.queries)

    def _ask(self, form: Callable[[str, str], str]) -> tuple[str, ...]:
        facts: Sequence[str] = self.facts or ("",) * len(self.questions)
        questions = (question.question for question in self.questions)
        return tuple(form(question, told) for question, told in zip(questions, facts, strict=True))


def sampled_prompts(case: Case) -> tuple[str, ...]:
    """What a case's extras let the model go on with by sampling."""
    if case.ceiling:
        return ()
    asked = tuple(map(fuzzy_prompt, questions_of(case))) if FUZZY in case.extras else ()
    return (*asked, *(generation_prompts(case) if {FLUENCY, CONSISTENCY} & set(case.extras) else ()))


def fuzzy_prompt(question: str) -> str:
    """A question as GLAME's program asks it."""
    return question + FUZZY_SUFFIX


def questions_of(case: Case) -> Mapping[str, tuple[str, ...]]:
    """Portability questions, and their right answers."""
    answers = {question.question: right_answers(question) for question in case.questions}
    queries = (query for probe in case.group("portability") for query in probe.queries)
    return {
        **answers,
        **{query.prompt: tuple(name for names in query.answers for name in names) for query in queries},
    }


def generation_prompts(case: Case) -> tuple[str, ...]:
    """The prompts of a case after which text is sampled for fluency and consistency."""
    return tuple(query.prompt.rstrip() for probe in case.group("generation") for query in probe.queries)
