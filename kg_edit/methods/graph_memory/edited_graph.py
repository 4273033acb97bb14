"""The edited graph: what the source states around the edits, with the edits on top.

An edit (s, r, o -> o*) replaces all that the source states of s and r by (s, r, o*). `EditedGraph` finds what is
stated of a thing after the edits. Each `Statement` has the keys of its parts and its origin:

- ``edit``: the edit itself, or its inverse (s is the capital of o*, so the capital of o* is s);
- ``rule``: what a rule of the graph implies of the edit (the setting ``graph.rules``; `RememberedEdit.implied`);
- ``graph``: what the source states;
- ``model``: what the unedited model answered where the graph states nothing. The walk adds these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from kg_edit.edits.edit import is_property_id
from kg_edit.languages import ENGLISH, fill
from kg_edit.methods.graph_memory.relation_words import RelationWords
from kg_edit.patches.walks import Origin, WalkedStatement
from kg_edit.text.fact_words import has_translated_words
from kg_edit.text.matching import normalised
from kg_edit.writing_systems import join

INVERSES = {
    "P36": ("P1376", "capital of"),
    "P1376": ("P36", "capital"),
    "P26": ("P26", "spouse"),
    "P190": ("P190", "twin city"),
    "P355": ("P749", "parent company"),
    "P749": ("P355", "subsidiary"),
}
"""The inverse (id, label) of a relation, if an edit implies it: the new capital of Japan is the capital of Japan."""
# A thing may have several of these, so the inverse of an edit stands beside them: when s gets the parent company o*,
# the other subsidiaries of o* stay. What a city is the capital of counts as one thing, because a question means one.
_MANY_VALUED = ("P190", "P355")
_UNNAMED = "_:"  # begins the name of a subgraph's node that is not in the source
_BY_NAME = "name:"  # begins the key of a thing that has only a name


class Entity(BaseModel):
    """A thing: its key, its label, and its other names.

    The key is that of the source (Q17, or a node of a private graph). A thing that the source does not have gets a key
    from its name: "name:new osaka".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    label: str
    aliases: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The label, then the aliases."""
        return (self.label, *self.aliases)


class Statement(BaseModel):
    """A statement (subject, relation, object), with the key and label of each, and where it comes from.

    ``edit`` is the id of the edit that made it, or around which it was read. ``relation_name`` is the relation's noun
    or label, and ``sentence_template`` its sentence with {} for subject and object, in the ``language``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: Entity
    relation_key: str
    relation_label: str
    object: Entity
    origin: Origin
    relation_name: str
    sentence_template: str
    edit: str = ""
    language: str = ENGLISH

    @property
    def sentence(self) -> str:
        """The statement as a sentence: "The capital of Japan is Tokyo."."""
        return self.say(self.subject.label, self.object.label)

    def say(self, subject: str, target: str) -> str:
        """Return the sentence with these names; a full stop at the object's end is not doubled."""
        # Of "The capital of {} is {}." this is "The capital of {} is ", and ".".
        before, _, after = self.sentence_template.rpartition("{}")
        return join(fill(before, subject, self.language), target.removesuffix(".")) + after

    @property
    def part_keys(self) -> tuple[str, str, str]:
        """The keys of subject, relation and object."""
        return (self.subject.key, self.relation_key, self.object.key)

    @property
    def shown(self) -> WalkedStatement:
        """The statement in the form that reports show."""
        return WalkedStatement(
            subject=self.subject.label,
            relation=self.relation_name,
            object=self.object.label,
            ids=self.part_keys,
            sentence=self.sentence,
            origin=self.origin,
            edit=self.edit,
        )


class RememberedEdit(BaseModel):
    """What the patch keeps of one edit.

    ``prompt`` is the edit's own, with its subject. ``fact`` is the edit as a statement, ``implied`` what rules imply of
    it (origin ``rule``), and ``stated`` what the source states around it (origin ``graph``), all in one language.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    prompt: str
    fact: Statement
    implied: Annotated[tuple[Statement, ...], Field(strict=False)] = ()
    stated: Annotated[tuple[Statement, ...], Field(strict=False)] = ()


def key_from_name(name: str) -> str:
    """Return the key of a thing that the source does not have."""
    return _BY_NAME + " ".join(normalised(name))


def key_from_node(node: str, label: str) -> str:
    """Return the key of a node of a subgraph: the node, or its name's key if the source does not have it."""
    if node.startswith(_UNNAMED):
        return key_from_name(label)
    return node


class EditedGraph:
    """The statements around some edits of one language, under the edits.

    A later edit of the same s and r replaces an earlier one.

    An example: the edit "the capital of Japan is Osaka", whose new object has only a name, over a source that states
    of Japan (Q17) that its capital (P36) is Tokyo and its continent (P30) is Asia, and that has Osaka (Q35765), too:

        _source_keys  {"name:osaka": "Q35765"}
        _edits        with Q35765 in the place of name:osaka
        facts         {("Q17", "P36"): "The capital of Japan is Osaka.",
                       ("Q35765", "P1376"): "Osaka is the capital of Japan."}
        _statements   {"Q17": {"P36": ["The capital of Japan is Osaka."], "P30": ["The continent of Japan is Asia."]},
                       "Q35765": {"P1376": ["Osaka is the capital of Japan."]}}

    Args:
        edits: in the order in which they were made.
        words: the packaged words of relations in the language of the edits.
        inverse: whether an edit also states its inverse (`INVERSES`).

    Attributes:
        words: as given.
        facts: the statements that the edits make, by the key of the subject and the relation's property or key. They
            replace what the source states of these; the inverses of `_MANY_VALUED` relations are not among them,
            because they replace nothing.
        starts: the things from which a walk can reach an edit, by key.
    """

    def __init__(self, edits: Sequence[RememberedEdit], words: RelationWords, *, inverse: bool = True) -> None:
        self.words = words
        # Each of these needs those above it.
        self._properties: dict[str, str] = {}  # by the key of a relation; `_find_property` fills it
        self._source_keys = _match_names(edits)
        self._edits = [self._with_source_keys(edit) for edit in edits]
        self.facts, self._inverses_beside = self._collect_facts(inverse=inverse)
        self._edits_by_subject = self._collect_edits()
        self._statements = self._collect_statements()
        self._answers = self._answer_prompts()
        self.starts = self._collect_starts()

    def find_statements(self, thing: Entity) -> dict[str, list[Statement]]:
        """Return the statements of a thing by relation: those of edits, then those of the source that they leave."""
        return self._statements.get(self._find_key(thing), {})

    def find_edits(self, thing: Entity) -> frozenset[str]:
        """Return the ids of the edits that state something of a thing; none if no edit changes it."""
        return self._edits_by_subject.get(self._find_key(thing), frozenset())

    def answer(self, prompt_words: tuple[str, ...]) -> Statement | None:
        """Return the fact that answers an edit's own prompt; None for another prompt.

        A later edit of the same s and r answers the prompts of the earlier ones, too.
        """
        return self._answers.get(prompt_words)

    def _find_key(self, thing: Entity) -> str:
        """Return the key of a thing: that of the source, if the source has one thing with its name."""
        return self._source_keys.get(thing.key, thing.key)

    def _with_source_keys(self, edit: RememberedEdit) -> RememberedEdit:
        """Return an edit whose statements have the source's keys, so that each begins where another one ends."""
        implied = tuple(self._rename(statement) for statement in edit.implied)
        stated = tuple(self._rename(statement) for statement in edit.stated)
        return edit.model_copy(update={"fact": self._rename(edit.fact), "implied": implied, "stated": stated})

    def _rename(self, statement: Statement) -> Statement:
        """Return a statement with the source's keys of its subject and its object."""
        changed = {}
        for name, thing in (("subject", statement.subject), ("object", statement.object)):
            if thing.key in self._source_keys:
                changed[name] = thing.model_copy(update={"key": self._source_keys[thing.key]})
        if not changed:
            return statement
        return statement.model_copy(update=changed)

    def _collect_facts(self, *, inverse: bool) -> tuple[dict[tuple[str, str], Statement], list[Statement]]:
        """Return what the edits state: the `facts`, and the inverses that stand beside what else is stated.

        Of several facts with the same keys of subject and relation, the last one counts. An edit that a later one
        replaces states nothing: neither its fact, nor the inverse, nor what rules imply of it.
        """
        last_edits = {self._what_is_stated(edit.fact): edit for edit in self._edits}
        facts: dict[tuple[str, str], Statement] = {}
        inverses_beside = list[Statement]()
        for edit in self._edits:
            if last_edits[self._what_is_stated(edit.fact)] is not edit:
                continue
            statements = [edit.fact]
            if inverse and self._can_invert(edit):
                inverted = self._invert(edit)
                if inverted.relation_key in _MANY_VALUED:
                    inverses_beside.append(inverted)
                else:
                    statements.append(inverted)
            statements += edit.implied
            for statement in statements:
                facts[self._what_is_stated(statement)] = statement
        return facts, inverses_beside

    def _what_is_stated(self, statement: Statement) -> tuple[str, str]:
        """Return the keys of what a statement is about: its subject, and its relation's property or key."""
        return statement.subject.key, self._find_property(statement)

    def _find_property(self, statement: Statement) -> str:
        """Return the packaged property of a statement's relation, or the relation's key if there is none.

        A private graph states a "residence". An edit of the residence has the property P551, and replaces it.
        """
        key = statement.relation_key
        if is_property_id(key):
            return key
        if key not in self._properties:
            self._properties[key] = self.words.property_of(statement.relation_label, prompt="") or key
        return self._properties[key]

    def _collect_edits(self) -> dict[str, frozenset[str]]:
        """Return the ids of the edits that state something of a thing, by the key of the thing."""
        edits: dict[str, frozenset[str]] = {}
        for fact in (*self.facts.values(), *self._inverses_beside):
            edits[fact.subject.key] = edits.get(fact.subject.key, frozenset()) | {fact.edit}
        return edits

    def _collect_statements(self) -> dict[str, dict[str, list[Statement]]]:
        """Return the statements by the subject's key, and then by the relation's; those of edits come first."""
        collected: dict[str, dict[str, list[Statement]]] = {}
        seen = set[tuple[str, str, str]]()
        for fact in (*self.facts.values(), *self._inverses_beside):
            if fact.part_keys in seen:
                continue
            seen.add(fact.part_keys)
            collected.setdefault(fact.subject.key, {}).setdefault(fact.relation_key, []).append(fact)

        for edit in self._edits:
            for statement in edit.stated:
                is_replaced = self._what_is_stated(statement) in self.facts
                if is_replaced or statement.part_keys in seen:
                    continue
                seen.add(statement.part_keys)
                by_relation = collected.setdefault(statement.subject.key, {})
                by_relation.setdefault(statement.relation_key, []).append(statement)
        return collected

    def _answer_prompts(self) -> dict[tuple[str, ...], Statement]:
        """Return the fact that answers each edit's own prompt, by the words of the prompt."""
        answers: dict[tuple[str, ...], Statement] = {}
        for edit in self._edits:
            answers[normalised(edit.prompt)] = self.facts[self._what_is_stated(edit.fact)]
        return answers

    def _collect_starts(self) -> dict[str, Entity]:
        """Return the subjects of facts, and the things from which one hop leads to such a subject."""
        edited = {fact.subject.key: fact.subject for fact in (*self.facts.values(), *self._inverses_beside)}
        starts = dict(edited)
        for edit in self._edits:
            for statement in edit.stated:
                if statement.object.key in edited:
                    starts.setdefault(statement.subject.key, statement.subject)
        return starts

    def _can_invert(self, edit: RememberedEdit) -> bool:
        """Return whether the inverse of an edit's relation is known, and has words in the language of the edits."""
        if edit.fact.relation_key not in INVERSES:
            return False
        inverse = self.words.relation(*INVERSES[edit.fact.relation_key])
        return inverse.forms is not None or not has_translated_words(self.words.language)

    def _invert(self, edit: RememberedEdit) -> Statement:
        """Return the inverse of an edit's fact, whose relation `_can_invert`."""
        fact = edit.fact
        inverse, label = INVERSES[fact.relation_key]
        relation = self.words.relation(inverse, label)
        return Statement(
            subject=fact.object,
            relation_key=inverse,
            relation_label=label,
            object=fact.subject,
            origin="edit",
            relation_name=relation.name,
            sentence_template=relation.sentence_template,
            edit=edit.id,
            language=fact.language,
        )


def _match_names(edits: Sequence[RememberedEdit]) -> dict[str, str]:
    """Return the source's key of things that the edits know by name only, such as {"name:osaka": "Q35765"}.

    A name that no thing of the source has, or several, is left out.
    """
    things = {}
    for edit in edits:
        for statement in (edit.fact, *edit.implied, *edit.stated):
            for thing in (statement.subject, statement.object):
                things[thing.key] = thing
    keys_by_name: dict[str, list[str]] = {}
    for key, thing in things.items():
        if not key.startswith(_BY_NAME):
            keys_by_name.setdefault(key_from_name(thing.label), []).append(key)
    source_keys = {}
    for key in things:
        same_name = keys_by_name.get(key, [])
        if key.startswith(_BY_NAME) and len(same_name) == 1:
            source_keys[key] = same_name[0]
    return source_keys
