"""The walk: from a thing that a question names, along the statements that the question asks for.

At each hop, the relations of the thing are compared with the words of the question that no hop has used yet
(`relation_words`). If several relations fit equally well, or none fits although words are left, the model decides. The
setting ``choose`` says how:

- ``noun``: by how likely the relation's noun is after the question;
- ``question``: by how likely the question is after the chain with the relation's statement, as in RAE (2403.19631);
- ``words``: the model is not asked; the nearest words win, and if no word fits, the walk ends.

A statement that the model chose without words stays only if the question is likelier with it than with the same
sentence about another relation (pruning).

A relation that the question asks for, and of which the graph states nothing, is answered by the unedited model ("What
is the capital of Japan?"), if two of three forms of the question get the same answer (`recall_object`). A walk that
passes no edit is dropped: the method changes nothing but what follows from an edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from kg_edit.languages import words_of
from kg_edit.methods.graph_memory.chain_text import MOST_EXAMPLES, MOST_HOPS, write_chain
from kg_edit.methods.graph_memory.edited_graph import EditedGraph, Entity, Statement, key_from_name
from kg_edit.methods.graph_memory.entities import Named, NameIndex
from kg_edit.methods.graph_memory.recall import likeliest_object, recall_object
from kg_edit.methods.graph_memory.relation_words import AskedWords, Match, Relation
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.text.fact_words import fact_words
from kg_edit.text.matching import normalised

Chooser = Literal["words", "noun", "question"]
# Between places of one kind: a shared border, twin towns, diplomatic relations
_BETWEEN_EQUALS = ("P47", "P190", "P530")
_COMPARED_AT_ONCE = 4  # relations in a forward pass: most choices are given up after the first few


class WalkRule(BaseModel):
    """Settings: how a walk is made, and how its chain is put before a prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(4, ge=1, le=MOST_HOPS, description="maximum number of hops of a walk")
    choose: Chooser = Field(
        "question",
        description="what chooses among relations that fit a question equally well: the likelihood of the question "
        "after the chain (question) or of the relation's noun after the question (noun), or words alone (words)",
    )
    compared: PositiveInt = Field(8, description="maximum number of relations that the model compares")
    margin: float = Field(
        0.02, ge=0, description="nats a token that a statement chosen without a common word has to gain"
    )
    recall: bool = Field(True, description="ask the unedited model for what the graph does not state")
    answer_tokens: PositiveInt = Field(8, description="maximum number of tokens in such an answer")
    examples: int = Field(2, ge=0, le=MOST_EXAMPLES, description="number of examples with made-up names")
    inverse: bool = Field(True, description="an edit also states its inverse, such as capital and capital of")


@dataclass(frozen=True)
class Walk:
    """The statements of a walk in order; none if the prompt names nothing, or asks for nothing that an edit changes.

    The walk from another edited thing may follow, see `Walker.walk`.
    """

    statements: tuple[Statement, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.statements)


@dataclass(frozen=True)
class _Choice:
    """A relation for the next hop, and its statements; () if the graph has none, so that the model is asked for one.

    ``match`` are the words that ask for the relation; None if no words do (a bridge, or what the model chose).
    """

    relation: Relation
    match: Match | None
    statements: Sequence[Statement]

    @property
    def rank(self) -> tuple[int, int, bool]:
        """The rank of a choice by words, of which the smallest is the best.

        Near words come first, then many words, then a relation of which the graph states something.
        """
        assert self.match is not None  # noqa: S101 - only choices by words are compared by rank
        return (self.match.distance, -len(self.match.positions), not self.statements)


def _is_changed(statement: Statement) -> bool:
    """Return whether a statement is what an edit makes, or what a rule implies of it."""
    return statement.origin in ("edit", "rule")


def _passes_edit(statements: Sequence[Statement]) -> bool:
    """Return whether one of the statements of a walk `_is_changed`."""
    return any(_is_changed(statement) for statement in statements)


def _begins_with_edit(statements: Sequence[Statement]) -> bool:
    """Return whether the first statement of a walk `_is_changed`; False for a walk without statements."""
    return bool(statements) and _is_changed(statements[0])


class Walker:
    """Walks an edited graph for the questions of one model."""

    def __init__(self, graph: EditedGraph, model: LanguageModel, rule: WalkRule) -> None:
        self._graph = graph
        self._model = model
        self._rule = rule
        self._words = graph.words
        self._names = NameIndex((thing, thing.names) for thing in graph.starts.values())
        self._costs_of_question: dict[Pair, float] = {}  # of the present question after chains that were tried

    def walk(self, question: str) -> Walk:
        """Return the walk of a question, from the first thing that it names whose walk passes an edit.

        If the walk begins with an edited fact, and the question also asks for one of another thing, made by another
        edit, the walk from that thing follows: "Are Sony and Toyota in the same country?". An edit's own prompt needs
        no walk: it gets the edit's statement.
        """
        self._costs_of_question = {}
        words = normalised(question)
        fact = self._graph.answer(words)
        if fact is not None:
            return Walk((fact,))
        found = self._names.find(question)
        walked: list[Statement] = []
        for named in found:
            if walked and not self._may_be_followed(walked, named.thing):
                continue
            asked = self._words_about(named, found, words)
            statements = self._walk_from(named.thing, asked, question)
            if walked:
                is_kept = _begins_with_edit(statements)
            else:
                is_kept = _passes_edit(statements)
            if is_kept:
                walked += statements
        return Walk(tuple(walked))

    def _may_be_followed(self, walked: Sequence[Statement], thing: Entity) -> bool:
        """Return whether a walk from ``thing`` may follow the statements ``walked``.

        They have to begin with an edited fact, and the thing needs an edit that they do not pass: of "Are Sony and
        Toyota in the same country?", the walk from Toyota may follow that from Sony if each has an edit of its own.
        """
        passed = {statement.edit for statement in walked if _is_changed(statement)}
        return _begins_with_edit(walked) and bool(self._graph.find_edits(thing) - passed)

    def _words_about(self, named: Named[Entity], found: Sequence[Named[Entity]], words: Sequence[str]) -> AskedWords:
        """Return the words of a question that may ask for something of the thing ``named``.

        If it has an edit, and the question also names things with other edits, they are those near this thing's name:
        in "Is the capital of Japan larger than that of France?", "capital of" if Japan and France have an edit each.
        """
        asked = self._words.read_question(words, named.positions)
        own_edits = self._graph.find_edits(named.thing)
        other_positions = set[int]()
        for other in found:
            has_other_edits = bool(self._graph.find_edits(other.thing) - own_edits)
            if has_other_edits:
                other_positions.update(other.positions)
        if own_edits and other_positions:
            return asked.keep_nearest_to_name(other_positions)
        return asked

    def _walk_from(self, thing: Entity, asked: AskedWords, question: str) -> list[Statement]:
        """Return the statements of the walk from ``thing``, for the words ``asked`` of the question."""
        chain: list[Statement] = []
        while len(chain) < self._rule.steps:
            choice = self._choose(thing, asked, question, chain)
            if choice is None:
                break
            statement = self._find_statement(thing, choice)
            if statement is None:
                break
            if statement.part_keys in {earlier.part_keys for earlier in chain}:  # the walk goes in a circle
                break
            chain.append(statement)
            thing = statement.object
            if choice.match is not None:
                asked = asked.without(choice.match)
            if not asked.count_left():
                break
        return chain

    def _choose(self, thing: Entity, asked: AskedWords, question: str, chain: Sequence[Statement]) -> _Choice | None:
        """Return the relation of ``thing`` that the question asks for next; None if it asks for none.

        It is found by the words of the question, then as a bridge to an edited fact, then by the model.
        """
        # The model is asked for nothing before the walk has passed an edit: what it knows by itself needs no chain.
        may_recall = self._rule.recall and _passes_edit(chain)
        matched = self._match_relations(thing, asked, may_recall=may_recall)
        if matched:
            best = matched[0]
            # Only what the graph states can be compared. If the best choice has to be recalled, nothing of its rank is
            # stated, and ``tied`` is empty.
            tied = [choice for choice in matched if choice.statements and choice.rank == best.rank]
            if len(tied) < 2 or self._rule.choose == "words":
                return best
            return self._likeliest_choice(tied, question, chain)
        bridge = self._find_bridge(thing, asked)
        if bridge is not None:
            return bridge
        if self._rule.choose == "words" or not asked.count_left() or self._asks_for_another(asked):
            return None
        return self._choose_without_words(thing, question, chain)

    def _find_bridge(self, thing: Entity, asked: AskedWords) -> _Choice | None:
        """Return a hop that the question does not name, if the question asks for an edited fact of the thing behind it.

        The question names Arturo Vidal and asks for a sport; the edit is about the sport of his position. So the walk
        goes to the position first. It does not go to a thing of the same kind: who asks for the capital of Spain means
        its own, and not that of China, with which Spain has diplomatic relations.
        """
        for relation_key, statements in self._graph.find_statements(thing).items():
            if relation_key in _BETWEEN_EQUALS:
                continue
            for statement in statements:
                matched = self._match_relations(statement.object, asked, may_recall=False)
                if any(_is_changed(choice.statements[0]) for choice in matched):
                    return _Choice(self._relation(statement), match=None, statements=(statement,))
        return None

    def _asks_for_another(self, asked: AskedWords) -> bool:
        """Return whether the words that are left fit a packaged relation, which is then not one of the thing's."""
        return any(asked.match(relation) for relation in self._words.packaged.values())

    def _match_relations(self, thing: Entity, asked: AskedWords, *, may_recall: bool) -> list[_Choice]:
        """Return the relations with words in the question, the best first.

        With ``may_recall`` these are also relations of which the graph states nothing.
        """
        stated = self._graph.find_statements(thing)
        choices: list[_Choice] = []
        for statements in stated.values():
            relation = self._relation(statements[0])
            match = asked.match(relation)
            if match:
                choices.append(_Choice(relation, match, statements))
        if may_recall:
            for key, relation in self._words.packaged.items():
                if key in stated:
                    continue
                match = asked.match(relation)
                if match:
                    choices.append(_Choice(relation, match, statements=()))
        return sorted(choices, key=lambda choice: choice.rank)

    def _relation(self, statement: Statement) -> Relation:
        return self._words.relation(statement.relation_key, statement.relation_label)

    def _find_statement(self, thing: Entity, choice: _Choice) -> Statement | None:
        """Return the statement of a choice: the likeliest one of several, or the model's answer if there is none.

        What edits state comes before what the source states beside it, such as the other subsidiaries of a company.
        """
        if not choice.statements:
            return self._recall_statement(thing, choice.relation)
        statements = [statement for statement in choice.statements if _is_changed(statement)]
        if not statements:
            statements = list(choice.statements)
        if len(statements) == 1:
            return statements[0]
        by_label: dict[str, Statement] = {}
        for statement in statements:
            by_label.setdefault(statement.object.label, statement)  # of several objects with one label, the first
        label = likeliest_object(self._model, thing.label, choice.relation, sorted(by_label))
        return by_label[label]

    def _recall_statement(self, thing: Entity, relation: Relation) -> Statement | None:
        """Return what the unedited model answers for a relation of a thing; None if no two forms agree."""
        answer = recall_object(self._model, thing.label, relation, tokens=self._rule.answer_tokens)
        if answer is None:
            return None
        return Statement(
            subject=thing,
            relation_key=relation.key,
            relation_label=relation.name,
            object=Entity(key=key_from_name(answer), label=answer),
            origin="model",
            relation_name=relation.name,
            sentence_template=relation.sentence_template,
            language=self._words.language,
        )

    def _choose_without_words(self, thing: Entity, question: str, chain: Sequence[Statement]) -> _Choice | None:
        """Return the relation that the model chooses where no word of the question fits one.

        Its statement has to make the question likelier, by the ``margin``, than the same sentence with any of the most
        frequent other relations in its place. So the names in the sentence, which help too, do not count.
        """
        choices = []
        for statements in self._graph.find_statements(thing).values():
            choices.append(_Choice(self._relation(statements[0]), match=None, statements=statements))
        if not choices:
            return None
        best = self._likeliest_choice(choices[: self._rule.compared], question, chain)
        if not self._beats_other_relations(best, question, chain):
            return None
        return best

    def _beats_other_relations(self, choice: _Choice, question: str, chain: Sequence[Statement]) -> bool:
        """Return whether a choice's statement makes the question likelier than the same sentence with other relations.

        They are compared a few at a time, and the first one that is as good ends the comparison.
        """
        statement = choice.statements[0]
        others = [other for other in self._words.packaged.values() if other.name != choice.relation.name]
        others = others[: self._rule.compared]
        (own_cost,) = self._score_question([write_chain([*chain, statement])], question)
        for start in range(0, len(others), _COMPARED_AT_ONCE):
            chains = []
            for other in others[start : start + _COMPARED_AT_ONCE]:
                about_other = statement.model_copy(update={"sentence_template": other.sentence_template})
                chains.append(write_chain([*chain, about_other]))
            gain = min(self._score_question(chains, question)) - own_cost
            if gain <= self._rule.margin:
                return False
        return True

    def _likeliest_choice(self, choices: Sequence[_Choice], question: str, chain: Sequence[Statement]) -> _Choice:
        """Return the choice that the model finds likeliest, by the noun or by the question."""
        if len(choices) == 1:
            return choices[0]
        if self._rule.choose == "noun":
            words = words_of(self._words.language)
            asks_for = fact_words(self._words.language).asks_for
            prompt = f"{words.question}{words.gap}{question}\n{asks_for}"
            pairs = [Pair(prompt, choice.relation.name) for choice in choices]
            scores = score(self._model, pairs)
            costs = [scores[pair].nll for pair in pairs]
        else:
            chains = [write_chain([*chain, choice.statements[0]]) for choice in choices]
            costs = self._score_question(chains, question)
        return choices[costs.index(min(costs))]

    def _score_question(self, chains: Sequence[str], question: str) -> list[float]:
        """Return -log p of the question after each chain, the mean over its tokens; a walk scores each chain once."""
        mark = words_of(self._words.language).question
        pairs = [Pair(f"{chain}\n{mark}".lstrip(), question) for chain in chains]
        new_pairs = [pair for pair in pairs if pair not in self._costs_of_question]
        if new_pairs:
            scores = score(self._model, new_pairs)
            for pair in new_pairs:
                self._costs_of_question[pair] = scores[pair].nll
        return [self._costs_of_question[pair] for pair in pairs]
