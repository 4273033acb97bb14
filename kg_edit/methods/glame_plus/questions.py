"""The questions of `glame-plus` about one edit, for the teacher and for the edited model.

`RippleTargets` holds all questions of an edit. The edit s -r-> o* and a statement o* -r'-> o' of the graph make a
`ComposedFact`: "Q: What is the currency of the country of X?" yen. Of a relation without such a fact the model may be
asked about o* itself; these are the relations that objects of r have most often in a graph (`asked_nouns`). Relations
are named by nouns from a packaged table, which is ordered by what people ask first. The subject is as late in a
question as possible, because only the tokens from there on cost time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import networkx as nx
from pydantic import Field, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.edits.templates import RelationTemplates
from kg_edit.graphs.controls import hidden_answers
from kg_edit.graphs.facts import overlaps, target_of
from kg_edit.graphs.source import subject_of
from kg_edit.methods.glame_plus.teacher import Answer, TeacherQuestion
from kg_edit.methods.rome.method import RomeConfig
from kg_edit.scoring.questions import right_answers
from kg_edit.text.relation_nouns import asked_nouns, relation_examples, relation_nouns

# {} is the subject, [hop] is such as "currency of the country of origin". All wordings ask for a short answer, as tests
# do. The frame of tests is another ("Question: … Answer:"), their question is often the same. Sentences ("The [hop] of
# {} is") are not used: a value trained on them alone answers questions less well.
WORDINGS = (
    "Q: What is the [hop] of {}?\nA:",
    "[hop] of {}:",
    "What is the [hop] of {}? Short answer:",
    "Q: Tell me the [hop] of {}.\nA:",
)
QUESTIONS = tuple(wording for wording in WORDINGS if not wording.startswith("[hop]"))  # without the heading

_COMMON = {"the", "and", "for", "language", "languages", "city", "united", "new", "company"}
_VAGUE = {"kind", "broader kind", "larger whole", "part", "largest part", "counterpart", "quality", "neighbour"}


class RippleConfig(RomeConfig):
    """ROME's settings, and how many questions are asked besides the edit."""

    own: int = Field(
        2,
        ge=0,
        description="how often the edit itself is learned as a question; with answers: once, or not at all if 0",
    )
    stated: int = Field(6, ge=0, description="maximum number of facts that are learned from the graph")
    per_relation: PositiveInt = Field(
        1, description="maximum number of objects of one relation r'; the likeliest first"
    )
    recalled: int = Field(
        4, ge=0, description="maximum number of further relations r' for which the model's own answer is learned"
    )
    shown: int = Field(
        3, ge=0, description="number of facts about other things before a question; with answers: answers.shown counts"
    )
    exclude_answers: bool = Field(
        True, description="learn no fact that shares a word with the answer of a test question"
    )


@dataclass(frozen=True, kw_only=True)
class ComposedFact:
    """A composed fact: the ``hop`` (such as "currency of the country of origin") of s is ``target``."""

    hop: str
    target: str

    @property
    def noun(self) -> str:
        """The relation r' alone, as a noun: "currency"."""
        return self.hop.partition(" of the ")[0]

    def prompt(self, wording: str) -> str:
        """Return the question as a template with {} for the subject; it ends right before the target."""
        return _worded(wording, self.hop)

    def context(self, wording: str, *, shown: int) -> str:
        """Return up to ``shown`` facts about other things in the same wording, then {} for the prompt.

        They show the form and the kind of the answer, so that the value does not have to learn these.
        """
        facts = relation_examples().get(self.noun, ())
        others = [(thing, target) for thing, target in facts if target != self.target][:shown]
        form = _worded(wording, self.noun)
        return "".join(f"{form.replace('{}', thing)} {target}\n\n" for thing, target in others) + "{}"


def _worded(wording: str, hop: str) -> str:
    text = wording.replace("[hop]", hop)
    return text[0].upper() + text[1:]


@dataclass(frozen=True, kw_only=True)
class RippleTargets:
    """All questions about an edit.

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
        if gives_away(self.edit.target_new, self.excluded):
            return []
        return [ComposedFact(hop=first_hop(self.edit), target=self.edit.target_new)] * self.config.own

    @property
    def stated(self) -> list[ComposedFact]:
        """The facts of the graph, which are learned as they are: what rules say of s, then composed facts."""
        limit = self.config.stated
        most = self.config.per_relation
        return [*self.implied, *ripples(self.edit, self.objects, limit=limit, a_relation=most)][:limit]

    @property
    def asks(self) -> list[TeacherQuestion]:
        """Questions for the teacher: relations that things like o* usually have, of which no fact is `stated`.

        There are up to twice as many as may be learned, because the teacher does not answer all of them. Nothing is
        asked about s itself: the unedited model, with the new fact in its prompt, still answers with the consequences
        of the old one (the capital of the country of the University of Paris stays Paris).
        """
        stated = {fact.noun for fact in self.stated}
        asked_for = [noun for noun in asked_nouns(self.edit.relation_id) if noun not in stated]
        most = 2 * self.config.recalled
        shown = relation_examples()
        return [
            TeacherQuestion(noun=noun, of=self.edit.target_new, examples=tuple(shown.get(noun, ())))
            for noun in asked_for[:most]
        ]

    def learned(self, question: TeacherQuestion, answer: Answer | None) -> ComposedFact | None:
        """Return the composed fact that the edited model learns from the teacher's answer.

        None if the teacher gave no answer, o* itself, or the answer of a test question.
        """
        if not answer or gives_away(answer.text, self.excluded) or overlaps(answer.text, self.edit.target_new):
            return None
        return ComposedFact(hop=f"{question.noun} of the {first_hop(self.edit)}", target=answer.text)


def excluded_answers(edit: Edit, config: RippleConfig, graph: object = None) -> list[str]:
    """Return the answers of the edit's test questions, which must not be learned; empty without ``exclude_answers``.

    They include the answers to the probes of the edit's record that are hidden in ``graph``. They are used for this
    filter only.
    """
    answers = [answer for question in edit.portability for answer in right_answers(question)]
    return [*answers, *hidden_answers(graph, edit)] if config.exclude_answers else []


def objects_of(edit: Edit, graph: nx.MultiDiGraph, *, exclude: Sequence[str]) -> dict[str, list[str]]:
    """Return the objects of the graph's statements about o*, by the relation's noun.

    Only relations that things like o* usually have are used; if these are unknown, all are. Left out are objects that
    contain a word of ``exclude``, relations that only name a kind or a part, and those without a noun (`_nouns`).
    """
    target = target_of(graph)
    nouns = _nouns()
    objects: dict[str, list[str]] = {}
    for _, end, key, data in sorted(graph.out_edges(target, keys=True, data=True), key=lambda edge: edge[:3]):
        noun = nouns.get(str(data.get("property", key)).casefold())
        label = str(graph.nodes[end]["label"])
        if not noun or noun in _VAGUE or data.get("role") == "edit" or re.fullmatch("[QP][0-9]+", label):
            continue
        itself = label.casefold() == edit.target_new.casefold()  # the country of Japan is Japan
        if not (itself or overlaps(label, edit.subject) or gives_away(label, exclude)):
            objects.setdefault(noun, []).append(label)
    usual = asked_nouns(edit.relation_id)
    order = dict.fromkeys(noun for noun in usual or relation_nouns().values() if noun in objects)
    return {noun: list(dict.fromkeys(objects[noun])) for noun in order}


def implied_facts(edit: Edit, graph: nx.MultiDiGraph, *, exclude: Sequence[str]) -> list[ComposedFact]:
    """Return what follows from the edit about s by rules (`SubgraphOptions.rules`), as questions; see `objects_of`."""
    nouns = relation_nouns()
    subject = subject_of(graph)
    edges = [edge for edge in graph.out_edges(subject, data=True) if edge[2].get("role") == "consequence"]
    facts = [
        ComposedFact(hop=nouns[data["property"]], target=str(graph.nodes[end]["label"]))
        for _, end, data in sorted(edges, key=lambda edge: (-edge[2]["confidence"], edge[2]["property"], edge[1]))
        if data["property"] in nouns
    ]
    return [fact for fact in dict.fromkeys(facts) if not gives_away(fact.target, exclude)]


def ripples(edit: Edit, objects: Mapping[str, Sequence[str]], *, limit: int, a_relation: int) -> list[ComposedFact]:
    """Return at most ``limit`` composed facts; each noun contributes its first ``a_relation`` objects."""
    first = first_hop(edit)
    composed = (
        ComposedFact(hop=f"{noun} of the {first}", target=label)
        for noun in objects
        for label in objects[noun][:a_relation]
    )
    return list(islice(composed, limit))


def first_hop(edit: Edit) -> str:
    """Return the edited relation as a noun: "country of origin"; one without a noun (`_nouns`) by its words."""
    nouns = _nouns()
    known = (nouns[name.casefold()] for name in (edit.relation_id, edit.relation) if name and name.casefold() in nouns)
    words = edit.relation_text.removeprefix("The ").removesuffix(" is")
    return next(known, words if edit.relation else words.removesuffix(" of"))  # of "The capital of {} is"


def _nouns() -> dict[str, str]:
    """The noun of each relation by its id, label and noun, in lower case; a graph of one's own only has labels."""
    by_id = relation_nouns()
    rows = RelationTemplates.load().by_name.items()
    labels = {name: by_id[row.property_id] for name, row in rows if row.property_id in by_id}
    return {noun: noun for noun in by_id.values()} | labels | {key.casefold(): noun for key, noun in by_id.items()}


def gives_away(text: str, answers: Sequence[str]) -> bool:
    """Return whether a text overlaps an answer, or shares a meaningful word with it."""
    return any(overlaps(text, answer) or _words(text) & _words(answer) for answer in answers)


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.casefold()) if len(word) > 2} - _COMMON
