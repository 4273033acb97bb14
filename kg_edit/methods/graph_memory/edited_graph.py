"""The edited graph: what the source states around the edits, with the edits on top.

An edit (s, r, o -> o*) replaces all that the source states of s and r by (s, r, o*). `EditedGraph` answers what is
stated of a thing after the edits. Each `Statement` has ids and its origin:

- ``edit``: the edit itself, or its inverse (s is the capital of o*, so the capital of o* is s);
- ``rule``: what follows from the edit by a rule of the graph (the setting ``graph.rules``);
- ``graph``: what the source states;
- ``model``: what the unedited model answered where the graph states nothing. The walk adds these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from kg_edit.methods.graph_memory.relation_words import RelationWords
from kg_edit.text.matching import normalised

Origin = Literal["edit", "rule", "graph", "model"]
INVERSES = {
    "P36": ("P1376", "capital of"),
    "P1376": ("P36", "capital"),
    "P26": ("P26", "spouse"),
    "P190": ("P190", "twin city"),
    "P355": ("P749", "parent company"),
    "P749": ("P355", "subsidiary"),
}
"""The inverse (id, label) of a relation, if an edit implies it: each end has one other end, or it is symmetric."""
_UNNAMED = "_:"  # begins the name of a subgraph's node that is not in the source
_BY_NAME = "name:"  # begins the key of a thing that has only a name


class Entity(BaseModel):
    """A thing: its key in the source (Q17, or a node of a private graph), its label, and its other names."""

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

    ``edit`` is the id of the edit that made it, or around which it was read. ``called`` is the relation's noun or
    label, and ``form`` its sentence with {} for subject and object.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: Entity
    relation_key: str
    relation_label: str
    object: Entity
    origin: Origin
    called: str
    form: str
    edit: str = ""

    @property
    def sentence(self) -> str:
        """The statement as a sentence: "The capital of Japan is Tokyo."."""
        return self.say(self.subject.label, self.object.label)

    def say(self, subject: str, target: str) -> str:
        """Return the sentence with these names; a full stop at the object's end is not doubled."""
        before, between, after = self.form.split("{}")
        return f"{before}{subject}{between}{target.removesuffix('.')}{after}"

    @property
    def ids(self) -> tuple[str, str, str]:
        """The keys of subject, relation and object."""
        return (self.subject.key, self.relation_key, self.object.key)


class RememberedEdit(BaseModel):
    """What the patch keeps of one edit.

    ``prompt`` is the edit's own, with its subject. ``fact`` is the edit as a statement, ``implied`` what follows from
    it by rules, and ``stated`` what the source states around it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    prompt: str
    fact: Statement
    implied: Annotated[tuple[Statement, ...], Field(strict=False)] = ()
    stated: Annotated[tuple[Statement, ...], Field(strict=False)] = ()


def named_key(label: str) -> str:
    """Return the key of a thing that the source does not have, from its name."""
    return _BY_NAME + " ".join(normalised(label))


def key_of(node: str, label: str) -> str:
    """Return the key of a node of a subgraph."""
    if node.startswith(_UNNAMED):
        return named_key(label)
    return node


class EditedGraph:
    """The statements around some edits, under the edits. A later edit of the same s and r replaces an earlier one.

    Args:
        edits: in the order in which they were made.
        words: the packaged words of relations.
        inverse: whether an edit also states its inverse (`INVERSES`).
    """

    def __init__(self, edits: Sequence[RememberedEdit], words: RelationWords, *, inverse: bool = True) -> None:
        self._edits = edits
        self._words = words
        self._inverse = inverse

    @cached_property
    def facts(self) -> dict[tuple[str, str], Statement]:
        """The statements that the edits make, by the keys of subject and relation; the last one of the same keys."""
        facts: dict[tuple[str, str], Statement] = {}
        for edit in self._edits:
            statements = [edit.fact]
            inverse = self._invert(edit)
            if inverse is not None:
                statements.append(inverse)
            statements += edit.implied
            for statement in statements:
                facts[self.key(statement.subject), statement.relation_key] = statement
        return facts

    @cached_property
    def prompts(self) -> dict[tuple[str, ...], Statement]:
        """The statement of each edit by the words of its own prompt."""
        prompts: dict[tuple[str, ...], Statement] = {}
        for edit in self._edits:
            prompts[normalised(edit.prompt)] = self.facts[self.key(edit.fact.subject), edit.fact.relation_key]
        return prompts

    def of(self, thing: Entity) -> dict[str, list[Statement]]:
        """Return the statements of a thing by relation: those of the edits, and the source's for other relations."""
        return self._by_subject.get(self.key(thing), {})

    def key(self, thing: Entity) -> str:
        """Return the key of a thing. One that has only a name is taken for the thing of the source with this name."""
        return self._source_keys.get(thing.key, thing.key)

    @cached_property
    def starts(self) -> dict[str, Entity]:
        """The things from which a walk can reach an edit, by key: subjects of edits, and what leads to one in a hop."""
        edited = {key: statement.subject for (key, _), statement in self.facts.items()}
        starts = dict(edited)
        for edit in self._edits:
            for statement in edit.stated:
                if self.key(statement.object) in edited:
                    starts.setdefault(self.key(statement.subject), statement.subject)
        return starts

    @cached_property
    def _by_subject(self) -> dict[str, dict[str, list[Statement]]]:
        """The statements by the subject's key, and then by the relation's: see `of`."""
        by_subject: dict[str, dict[str, list[Statement]]] = {}
        for (key, relation), fact in self.facts.items():
            by_subject.setdefault(key, {})[relation] = [fact]

        seen = set[tuple[str, str, str]]()
        for edit in self._edits:
            for statement in edit.stated:
                key = self.key(statement.subject)
                is_replaced = (key, statement.relation_key) in self.facts
                if is_replaced or statement.ids in seen:
                    continue
                seen.add(statement.ids)
                by_relation = by_subject.setdefault(key, {})
                by_relation.setdefault(statement.relation_key, []).append(statement)
        return by_subject

    @cached_property
    def _source_keys(self) -> dict[str, str]:
        """For the key of a thing that has only a name: the key in the source, if one thing there has this name."""
        things = {thing.key: thing for thing in self._things()}
        keys_by_name: dict[str, list[str]] = {}
        for key, thing in things.items():
            if not key.startswith(_BY_NAME):
                keys_by_name.setdefault(named_key(thing.label), []).append(key)
        source_keys = {}
        for key in things:
            same_name = keys_by_name.get(key, [])
            if key.startswith(_BY_NAME) and len(same_name) == 1:
                source_keys[key] = same_name[0]
        return source_keys

    def _things(self) -> Iterable[Entity]:
        """Yield the subject and the object of each statement."""
        for edit in self._edits:
            for statement in (edit.fact, *edit.implied, *edit.stated):
                yield statement.subject
                yield statement.object

    def _invert(self, edit: RememberedEdit) -> Statement | None:
        """Return the inverse of an edit's statement, if its relation has one (`INVERSES`)."""
        fact = edit.fact
        if not self._inverse or fact.relation_key not in INVERSES:
            return None
        inverse, label = INVERSES[fact.relation_key]
        relation = self._words.relation(inverse, label)
        return Statement(
            subject=fact.object,
            relation_key=inverse,
            relation_label=label,
            object=fact.subject,
            origin="edit",
            called=relation.called,
            form=relation.form,
            edit=edit.id,
        )
