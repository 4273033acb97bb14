"""A case is a record in the form in which it is scored: the prompts for the model, from the record's edits and probes.

A case knows no metric. It lists which texts the model continues, scores, predicts or samples; metrics read the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from kg_edit.edits.edit import Edit, Question
from kg_edit.edits.record import BenchmarkRecord, Probe, Query, as_record
from kg_edit.scoring.pairs import Pair
from kg_edit.scoring.questions import (
    ANSWER,
    fact_sentence,
    format_question,
    format_question_with_shots,
    generated_from,
    pair_of,
    query_of,
    recalled_fact,
    right_answers,
    scored_after,
    stepped_from,
)

Asked = Literal["continuation", "beginning", "steps", "first answer", "all answers", "gains", "predicted tokens"]
"""The kinds of evidence about a query: the greedy continuation ("continuation"), the same with the steps written out
("steps"), its first tokens ("beginning"), the likelihood of the first right answer ("first answer"), of all right and
rival answers ("all answers"), of these without the question ("gains"), and the arg-max tokens at the first right
answer's positions ("predicted tokens")."""

EVIDENCE: Mapping[str, frozenset[Asked]] = {
    "edit": frozenset({"continuation"}),
    "efficacy": frozenset({"first answer"}),
    "accurate": frozenset({"first answer"}),
    "distracting": frozenset({"first answer", "all answers"}),
    "elsewhere": frozenset({"continuation"}),
    "fact-check": frozenset({"first answer", "all answers"}),
    "hallucination": frozenset({"first answer", "all answers"}),
    "hops": frozenset({"continuation"}),
    "inference": frozenset({"all answers"}),
    "inference-specificity": frozenset({"all answers"}),
    "locality": frozenset({"continuation", "first answer", "predicted tokens"}),
    "locality-text": frozenset({"beginning"}),
    "multihop": frozenset({"continuation", "all answers"}),
    "multiple-choice": frozenset({"all answers"}),
    "negation": frozenset({"first answer", "all answers"}),
    "paraphrase": frozenset({"continuation", "first answer"}),
    "portability": frozenset({"continuation", "first answer"}),
    "recall": frozenset({"continuation"}),
    "refutation": frozenset({"continuation"}),
    "reversed": frozenset({"continuation", "first answer"}),
    "ripple": frozenset({"continuation"}),
    "ripples-edit": frozenset({"continuation"}),
    "ripples-known": frozenset({"continuation", "steps", "first answer", "all answers", "gains"}),
    "ripples-more": frozenset({"continuation"}),
    "ripples-stay": frozenset({"continuation"}),
    "ripples-unknown": frozenset({"continuation", "steps", "first answer", "all answers", "gains"}),
    "sentiment": frozenset({"all answers"}),
    "span": frozenset({"first answer"}),
    "specificity": frozenset({"first answer"}),
    "sub-question": frozenset({"continuation", "first answer"}),
    "triple": frozenset({"continuation", "first answer"}),
    "unstructured": frozenset({"continuation"}),
    "unstructured-paraphrase": frozenset({"continuation"}),
}
"""The kinds of evidence that the probes of each family need. Only the extras use other families (generation)."""

FUZZY = "portability.glame_fuzzy"
FLUENCY, CONSISTENCY = "fluency.ngram_entropy", "consistency.tfidf"
DIVERGENCE = "neighborhood.next_token_kl"
FUZZY_SUFFIX = " The answer, most simply, is"


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
        grouped = (
            Probe(measures=f"portability.{question.category}", queries=(query_of(question),))
            for edit in full_record.edits
            for question in edit.portability
            if question.category
        )
        return cls(
            edit=first,
            further=tuple(further),
            probes=(*full_record.probes, *grouped),
            choices=choices,
            extras=extras,
            references=full_record.references,
            chat=any(edit.forms[0] for edit in full_record.edits) if chat is None else chat,
        )

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits that the record makes together, beginning with its first one."""
        return (self.edit, *self.further)

    @property
    def questions(self) -> tuple[Question, ...]:
        """The portability questions of the edits, of no category."""
        return tuple(question for edit in self.edits for question in edit.plain_questions)

    def group(self, name: str) -> tuple[Probe, ...]:
        """Return the probes of a family, or of one of its sub-categories."""
        return tuple(probe for probe in self.probes if name in (probe.family, probe.measures))

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
        answers = (question.answer for question in self.questions)
        return list(map(Pair, self.prompts, answers))

    @property
    def pairs(self) -> list[Pair]:
        """All pairs whose likelihood the metrics of this case read."""
        # portability.choice compares an answer after the question with the same answer after "Answer:" alone.
        choices = [
            Pair(prompt, answer)
            for question, answers in zip(self.prompts, self.choices, strict=False)
            for answer in answers
            for prompt in (question, ANSWER)
        ]
        if self.ceiling:
            return [*self.answer_pairs, *choices, *self._probe_pairs]
        # The probabilities of the new and the old target, after the edit's prompt, its paraphrases and its neighbours.
        target_pairs = [
            Pair(prompt.rstrip(), target)
            for edit in self.edits
            for prompt in (edit.text, *edit.paraphrases, *edit.neighborhood)
            for target in (edit.target_new, edit.target_true)
            if target
        ]
        return [*target_pairs, *self.answer_pairs, *choices, *self._probe_pairs]

    @property
    def predicted_pairs(self) -> list[Pair]:
        """The pairs whose arg-max tokens are compared with the unedited model's."""
        return [pair_of(query) for query in self._queries("predicted tokens")]

    @property
    def continued(self) -> dict[str, str]:
        """Each text that the model continues greedily -> the name of its continuation in a section."""
        statements = {} if self.ceiling else {edit.text: edit.text for edit in self.edits}
        compared = {generated_from(query): scored_after(query) for query in self._queries("beginning")}
        return {**self._question_texts, **statements, **compared, **self._probed}

    @property
    def answered(self) -> frozenset[str]:
        """The texts of `continued` whose continuation shall answer a question, a probe or a condition."""
        return frozenset([*self._question_texts, *self._probed])

    @property
    def long_texts(self) -> frozenset[str]:
        """The texts of `continued` that the model continues with several sentences."""
        return frozenset(generated_from(query) for probe in self.group("refutation") for query in probe.queries)

    @property
    def paragraphs(self) -> frozenset[str]:
        """The texts of `continued` whose continuation is compared with a paragraph, and may have several lines."""
        probes = (*self.group("unstructured"), *self.group("unstructured-paraphrase"))
        return frozenset(generated_from(query) for probe in probes for query in probe.queries)

    @property
    def compared(self) -> frozenset[str]:
        """The texts of `continued` whose continuation's beginning is compared with the unedited model's."""
        return frozenset(map(generated_from, self._queries("beginning")))

    @property
    def foreseen(self) -> tuple[str, ...]:
        """The prompts whose next token's probabilities are compared with the unedited model's, for the extras."""
        requested = DIVERGENCE in self.extras and not self.ceiling
        return tuple(prompt.rstrip() for edit in self.edits for prompt in edit.neighborhood) if requested else ()

    @property
    def sampled(self) -> tuple[str, ...]:
        """The texts that the model continues by sampling, for the extras."""
        if self.ceiling:
            return ()
        fuzzy = tuple(map(fuzzy_prompt, right_answers_by_question(self))) if FUZZY in self.extras else ()
        return (*fuzzy, *(generation_prompts(self) if {FLUENCY, CONSISTENCY} & set(self.extras) else ()))

    @property
    def _question_texts(self) -> dict[str, str]:
        return dict(zip(self.few_shot_prompts, (question.question for question in self.questions), strict=True))

    @property
    def _probed(self) -> dict[str, str]:
        conditions = (query for probe in self.probes for query in probe.conditions)
        # The model is asked in the few-shot form; its text is named by the plain form, which is in the section.
        direct = {generated_from(query): scored_after(query) for query in (*self._queries("continuation"), *conditions)}
        return {**direct, **{prompt: prompt for prompt in self.stepped}}

    @property
    def stepped(self) -> frozenset[str]:
        """The texts of `continued` after which the model writes the steps first and then the answer."""
        return frozenset(stepped_from(query) for query in self._queries("steps"))

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

    def _queries(self, kind: Asked) -> Iterator[Query]:
        return (query for probe in self.probes if kind in EVIDENCE.get(probe.family, ()) for query in probe.queries)

    def _ask(self, form: Callable[[str, str], str]) -> tuple[str, ...]:
        facts: Sequence[str] = self.facts or ("",) * len(self.questions)
        questions = (question.question for question in self.questions)
        return tuple(map(form, questions, facts))


def ceiling_cases(case: Case) -> dict[str, Case]:
    """Return the same questions with the edited fact before each, and with both the fact and the recalled relation.

    If a record has several edits, a question comes after the edit that it is about; a probe's query comes after all of
    them. The second case exists only if each question has a recalled relation.

    Returns:
        ``fact_in_prompt`` and ``fact_and_relation_in_prompt``, as far as they exist.
    """
    facts = tuple(fact_sentence(edit) for edit in case.edits for _ in edit.plain_questions)
    recalled = [question.recalled_relation for question in case.questions]
    multi_hop = [probe for probe in case.probes if any(query.recalled for query in probe.queries)]
    base = Case(edit=case.edit, further=case.further, choices=case.choices, ceiling=True, chat=case.chat)
    if not facts and not multi_hop:
        return {}
    cases = {"fact_in_prompt": replace(base, facts=facts, probes=_after_facts(multi_hop, case.edits, recalled=False))}
    if all(recalled):
        both = tuple(f"{fact} {recalled_fact(relation or '')}" for fact, relation in zip(facts, recalled, strict=True))
        probes = _after_facts(multi_hop, case.edits, recalled=True)
        cases["fact_and_relation_in_prompt"] = replace(base, facts=both, probes=probes)
    return cases


def _after_facts(probes: Iterable[Probe], edits: Sequence[Edit], *, recalled: bool) -> tuple[Probe, ...]:
    """The probes with the edits' facts before each question, and with the recalled facts if ``recalled``."""
    facts = " ".join(map(fact_sentence, edits))

    def after_facts(query: Query) -> Query:
        # The examples too come after their first hop, or after all hops if ``recalled``. Without that, the model would
        # have to guess the purpose of a fact before a question. The last fact states the answer, and is left out.
        hops = (example.facts if recalled else example.facts[:-1][:1] for example in query.examples)
        shown = zip(query.examples, hops, strict=True)
        examples = tuple(example.model_copy(update={"context": " ".join(before)}) for example, before in shown)
        context = f"{facts} {query.recalled}".strip() if recalled else facts
        return query.model_copy(update={"context": context, "examples": examples})

    return tuple(probe.model_copy(update={"queries": tuple(map(after_facts, probe.queries))}) for probe in probes)


def fuzzy_prompt(question: str) -> str:
    """Return a question in the form of GLAME's program."""
    return question + FUZZY_SUFFIX


def right_answers_by_question(case: Case) -> Mapping[str, tuple[str, ...]]:
    """Return each portability question with its right answers."""
    answers = {question.question: right_answers(question) for question in case.questions}
    queries = (query for probe in case.group("portability") for query in probe.queries)
    return {
        **answers,
        **{query.prompt: tuple(name for names in query.answers for name in names) for query in queries},
    }


def generation_prompts(case: Case) -> tuple[str, ...]:
    """Return the prompts of a case after which text is sampled for fluency and consistency."""
    return tuple(query.prompt.rstrip() for probe in case.group("generation") for query in probe.queries)
