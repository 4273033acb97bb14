"""The questions of `glame-plus` about one edit, for the teacher and for the edited model.

`RippleTargets` holds all questions of an edit. The edit and a statement of o* in the graph make a `ComposedFact`. Of a
relation without such a fact, the unedited model (the teacher) may be asked about o* itself. It is asked for the
relations that objects of r have most often in a graph (`asked_nouns`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.graphs.controls import hidden_answers
from kg_edit.graphs.facts import overlaps
from kg_edit.methods.composed_facts import (
    Answer,
    ComposedFact,
    composed_fact,
    edit_as_fact,
    forms_to_ask,
    gives_away,
    ripples,
)
from kg_edit.methods.glame_plus.teacher import TeacherQuestion
from kg_edit.methods.rome.method import RomeConfig
from kg_edit.scoring.questions import right_answers
from kg_edit.text.relation_nouns import asked_nouns, relation_examples


class RippleConfig(RomeConfig):
    """ROME's settings, and how many questions are asked besides the edit."""

    own: int = Field(
        2,
        ge=0,
        description="how often the value at s learns the edit itself as a question; the late block learns it once, or "
        "not at all if this is 0",
    )
    stated: int = Field(10, ge=0, description="maximum number of facts that are learned from the graph")
    every_relation: bool = Field(
        True,
        description="learn statements of every relation of o* that has a noun; false: only of the relations that "
        "objects of r usually have",
    )
    per_relation: PositiveInt = Field(
        1, description="maximum number of objects of one relation r'; the likeliest first"
    )
    recalled: int = Field(
        4, ge=0, description="maximum number of further relations r' for which the model's own answer is learned"
    )
    shown: int = Field(
        3,
        ge=0,
        description="number of facts about other things before a question that the value at s learns; in the late "
        "block: answers.shown",
    )
    exclude_answers: bool = Field(
        True, description="learn no fact that shares a word with the answer of a test question"
    )


@dataclass(frozen=True, kw_only=True)
class RippleTargets:
    """What follows from an edit: the facts about s that the edited model learns, and the questions for the teacher.

    ``objects`` has the objects of the graph's statements about o*, by the relation's noun; the likeliest object is
    first. ``excluded`` has the answers that must not be learned (`excluded_answers`). ``implied`` are facts about s
    that follow from the edit by rules.
    """

    edit: Edit
    objects: Mapping[str, Sequence[str]]
    config: RippleConfig
    excluded: Sequence[str]
    implied: Sequence[ComposedFact] = ()

    @property
    def own(self) -> list[ComposedFact]:
        """The edit itself as questions; none if o* gives away the answer of a test question."""
        fact = edit_as_fact(self.edit)
        if fact is None or gives_away(self.edit.target_new, self.excluded):
            return []
        return [fact] * self.config.own

    @property
    def from_graph(self) -> list[ComposedFact]:
        """The facts about s that the graph gives: those ``implied`` by rules, then those composed of its statements."""
        limit = self.config.stated
        composed = ripples(self.edit, self.objects, limit=limit, per_relation=self.config.per_relation)
        return [*self.implied, *composed][:limit]

    @property
    def teacher_questions(self) -> list[TeacherQuestion]:
        """Questions for the teacher: relations that things like o* usually have, of which no fact is `from_graph`.

        There are up to twice as many as may be learned, because the teacher does not answer all of them. Nothing is
        asked about s itself: the unedited model, with the new fact in its prompt, still answers with the consequences
        of the old one (the capital of the country of the University of Paris stays Paris).
        """
        known_nouns = {fact.noun for fact in self.from_graph}
        language = self.edit.language
        missing = [noun for noun in asked_nouns(self.edit.relation_id, language) if noun not in known_nouns]
        most = 2 * self.config.recalled
        examples = relation_examples(language)
        questions = []
        for noun in missing[:most]:
            known = tuple(examples.get(noun, ()))
            forms = forms_to_ask(noun, language)
            questions.append(TeacherQuestion(noun=noun, of=self.edit.target_new, examples=known, forms=forms))
        return questions

    def fact_to_learn(self, question: TeacherQuestion, answer: Answer) -> ComposedFact | None:
        """Return the composed fact that the edited model learns from the teacher's answer.

        None if the answer is o* itself or that of a test question, or if the fact has no words (`composed_fact`).
        """
        if gives_away(answer.text, self.excluded):
            return None
        if overlaps(answer.text, self.edit.target_new):
            return None
        return composed_fact(self.edit, question.noun, answer.text)


def excluded_answers(edit: Edit, config: RippleConfig, graph: object = None) -> list[str]:
    """Return the answers of the edit's test questions, which must not be learned; empty without ``exclude_answers``.

    A benchmark's record has probes too. `kg-edit evaluate` puts a control around the graph that hides the answers to
    them (`WithoutAnswers`): they are excluded as well, and used for this filter only. `kg_edit.methods.graph_reader`
    compares this with other answers of tests.
    """
    if not config.exclude_answers:
        return []
    answers = list[str]()
    for question in edit.portability:
        answers += right_answers(question)
    return [*answers, *hidden_answers(graph, edit)]
