"""A benchmark record: edits to be made together, and the questions for the model afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from kg_edit.edits.edit import Edit, Language, Name, Record, Text, Texts
from kg_edit.languages import ENGLISH

Triple = Annotated[tuple[str, str, str], Field(strict=False)]
Form = Literal["question", "sentence"]
_CODE = 3  # the most letters of the code of a language or a country


def _without_codes(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of an answer without aliases that are codes.

    Wikidata has the codes of languages and countries as aliases: any text may hold "it" (Italian) or "in" (India).
    """
    if not names:
        raise PydanticCustomError("blank", "is empty")
    name, *aliases = names
    if name.islower():  # a short alias in lower case may be a name like this one, and not a code
        return names
    kept = [alias for alias in aliases if len(alias) > _CODE or not alias.islower()]
    return (name, *kept)


# A right answer: its name, then its aliases. Teacher forcing scores the name alone.
AnswerNames = Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(_without_codes)]
Answers = Annotated[tuple[AnswerNames, ...], Field(strict=False)]


class Example(Record):
    """An answered question that is shown before another question.

    ``facts`` are the steps from the question to the answer, a sentence for each hop: they may be shown between the two.
    ``context`` are sentences before the question, as in a `Query`.
    """

    question: Text
    answer: Text
    facts: Texts = ()
    context: str = ""

    @property
    def steps(self) -> str:
        """The facts on one line."""
        return " ".join(self.facts)


class Query(Record):
    """A prompt and its possible answers.

    A question is asked in the fixed forms of `kg_edit.scoring.questions`; a sentence is used unchanged, and the answer
    continues it.
    """

    prompt: Text = Field(description="a question, or a sentence that the answer continues")
    answers: Answers = Field((), description="right answers, each a list of its name and aliases")
    every: bool = Field(False, description="whether all the answers must be generated, not just one of them")
    form: Form = Field("question", description="question or sentence")
    others: Texts = Field((), description="answers that compete with the right ones: old ones, distractors")
    old: Texts = Field((), description="names of the answer before the edits")
    recalled: str = Field("", description="sentences that lead from the new target to the answer")
    context: str = Field("", description="sentences before the question")
    examples: Annotated[tuple[Example, ...], Field(strict=False)] = Field(
        (), description="answered questions of the same kind, in the place of the fixed ones"
    )
    language: Language = Field(
        ENGLISH, description="of the fixed words around a question", exclude_if=lambda code: code == ENGLISH
    )

    @property
    def right_names(self) -> tuple[str, ...]:
        """All names of all right answers, in one row."""
        names = list[str]()
        for answer in self.answers:
            names += answer
        return tuple(names)


Queries = Annotated[tuple[Query, ...], Field(strict=False)]


class Probe(Record):
    """One measurement: it passes if any, or all, of its queries are answered correctly.

    ``measures`` names the group, such as multihop, ripple.RS, portability.Reasoning; the part after the dot is a
    sub-category.
    """

    measures: Name = Field(description="the group of probes that is averaged")
    queries: Queries = Field(description="what is asked")
    passes: Literal["any", "all"] = Field("all", description="how many queries must be answered correctly")
    conditions: Queries = Field((), description="what the unedited model must answer correctly; else no score")

    @property
    def family(self) -> str:
        """The group's name without its sub-category."""
        return self.measures.partition(".")[0]


class Remark(Record):
    """A fault of a record that can still be used."""

    kind: Literal["same-target", "empty-answer"] = Field(description="what is wrong, in a word")
    message: str = Field(description="what is wrong, and where")


class BenchmarkRecord(Record):
    """Edits that are made together, and probes. The prompts and questions of each `Edit` are measured too.

    ``chain`` and ``new_chain`` are the facts, as ids, that lead to the answer before and after the edits (MQuAKE).
    ``references`` are texts about entities of which the new target is true (for consistency.tfidf). ``remarks`` are
    faults with which the record can still be used; the lint reports them.
    """

    id: Name = Field(description="a name for the record, unique in its file")
    edits: Annotated[tuple[Edit, ...], Field(strict=False)] = Field(description="the edits to make")
    probes: Annotated[tuple[Probe, ...], Field(strict=False)] = Field((), description="what the edited model is asked")
    chain: Annotated[tuple[Triple, ...], Field(strict=False)] = Field((), description="facts before, as ids")
    new_chain: Annotated[tuple[Triple, ...], Field(strict=False)] = Field((), description="facts after, as ids")
    # Such as "CounterFact"; "edits" for a user's own edits, and "" for an edit without probes (`as_record`). This is
    # neither the form of a `Query` (question or sentence) nor that of an `Edit` (plain text or chat).
    form: str = Field("", description="the published form it was read from, and what was chosen in reading it")
    references: Texts = Field((), description="texts that sampled ones are compared with")
    remarks: Annotated[tuple[Remark, ...], Field(strict=False)] = Field((), description="what the lint reports of it")

    @model_validator(mode="after")
    def _has_an_edit(self) -> Self:
        """Check that the record has an edit."""
        if not self.edits:
            raise PydanticCustomError("blank", "has no edits; expected at least one", {"field": "edits"})
        return self

    @property
    def has_ceilings(self) -> bool:
        """Whether it has questions for ceilings: portability questions of no category, or probes with recalled facts.

        A ceiling is the score of the unedited model with the facts that lead to the answer in the prompt.
        """
        for probe in self.probes:
            if any(query.recalled for query in probe.queries):
                return True
        return any(edit.plain_questions for edit in self.edits)

    def group(self, name: str) -> tuple[Probe, ...]:
        """Return the probes of a family, or of one of its sub-categories, in the record's order."""
        return tuple(probe for probe in self.probes if name in (probe.family, probe.measures))

    def queries(self, name: str) -> tuple[Query, ...]:
        """Return the queries of the probes in `group`."""
        queries = list[Query]()
        for probe in self.group(name):
            queries += probe.queries
        return tuple(queries)


def edits_of(records: Iterable[BenchmarkRecord]) -> tuple[Edit, ...]:
    """Return the edits of all records, in their order."""
    edits = list[Edit]()
    for record in records:
        edits += record.edits
    return tuple(edits)


def as_record(item: Edit | BenchmarkRecord) -> BenchmarkRecord:
    """Return the record; an `Edit` becomes a record with this edit and no probes."""
    if isinstance(item, BenchmarkRecord):
        return item
    return BenchmarkRecord(id=item.id, edits=(item,))


def form_of(prompt: str) -> Form:
    """Return the form of a prompt: "question" if it ends in a question mark, else "sentence"."""
    if prompt.rstrip().endswith("?"):
        return "question"
    return "sentence"
