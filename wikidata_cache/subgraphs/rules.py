"""Rules of a graph, and what follows from an edit by them.

A `Rule` has one of three forms, and is mined from a graph (`wikidata_cache.mining`, after AMIE: Galarraga et al.,
WWW 2013, https://doi.org/10.1145/2488388.2488425):

    r1(x,y) & r2(y,z) => r3(x,z)      who is in the team y, which does the sport z, does z
    r1(x,y) => r3(x,y)                whose native language is y speaks y
    r1(x,y) => r3(y,x)                whose spouse is y is the spouse of y

For an edit s -r-> o*, the rules with r1 = r tell which other facts have to change with it (`consequences`): the first
form reads the statements o* -r2-> z and gives s -r3-> z. This is the idea of ChainEdit (arXiv 2507.08427).
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from kg_common.atomic import user_path
from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import Statement

_P = r"(P[1-9][0-9]*)"
_WITH_SECOND = re.compile(rf"{_P}\(x,y\) & {_P}\(y,z\) => {_P}\((x,z)\)", re.ASCII)
_WITHOUT_SECOND = re.compile(rf"{_P}\(x,y\) => {_P}\((x,y|y,x)\)", re.ASCII)


@dataclass(frozen=True)
class Rule:
    """A rule with its measures."""

    first: str  # r1
    second: str | None  # r2, or None
    head: str  # r3
    arguments: str  # of the head: "x,z" with r2, else "x,y" or "y,x"
    support: int  # number of pairs for which body and head are in the graph
    # PCA confidence: support / number of the body's pairs in which the first item has any r3. The assumption is that a
    # graph with some r3 of an item has them all; a graph without any says nothing about the item. For the rule
    # "place of birth, country => citizenship": 100 persons have a place of birth in a country, 60 of them have any
    # citizenship, and 45 that of this country. The support is 45, and the confidence 45 / 60.
    confidence: float

    def __str__(self) -> str:
        """Return the rule as text, such as "P19(x,y) & P17(y,z) => P27(x,z)"."""
        middle = f"& {self.second}(y,z) " if self.second else ""
        return f"{self.first}(x,y) {middle}=> {self.head}({self.arguments})"

    @property
    def relations(self) -> tuple[str, ...]:
        """r1, r2 if there is one, and r3."""
        return tuple(name for name in (self.first, self.second, self.head) if name)

    def words(self, labels: Mapping[str, str]) -> str:
        """Return the rule in words, such as "place of birth, country => country of citizenship"."""
        names = [labels.get(relation, relation) for relation in self.relations]
        text = f"{', '.join(names[:-1])} => {names[-1]}"
        if self.arguments == "y,x":
            text += " (inverse)"
        return text


class Consequence(NamedTuple):
    """A statement that follows from an edit by a rule; `premise` is the statement of o* that the rule reads, if any."""

    statement: Statement
    rule: Rule
    premise: Statement | None


class Rules:
    """Rules by their first relation, the most confident first."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.all: tuple[Rule, ...] = tuple(sorted(rules, key=lambda rule: (-rule.confidence, -rule.support, str(rule))))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rules) and self.all == other.all

    def __hash__(self) -> int:
        return hash(self.all)

    def provenance(self) -> dict[str, object]:
        """Return the number of the rules, and a hash of them."""
        text = "\n".join(f"{rule} {rule.support} {rule.confidence}" for rule in self.all)
        return {"count": len(self.all), "sha256": hashlib.sha256(text.encode()).hexdigest()}

    @cached_property
    def _by_first(self) -> Mapping[str, Sequence[Rule]]:
        by_first: dict[str, list[Rule]] = defaultdict(list)
        for rule in self.all:
            by_first[rule.first].append(rule)
        return by_first

    def consequences(
        self, edit: Statement, about_object: Iterable[tuple[str, str]], *, existing: Iterable[Statement] = ()
    ) -> list[Consequence]:
        """Return what follows from an edit s -r-> o*, the most confident first, each statement once.

        Args:
            edit: the edit.
            about_object: (r2, z) of the statements o* -r2-> z.
            existing: statements that the graph has already, which do not have to change.
        """
        unchanged = {edit, *existing}
        stated = sorted(set(about_object))
        by_statement: dict[Statement, Consequence] = {}
        for rule in self._by_first.get(edit.property, ()):
            for consequence in _apply(rule, edit, stated):
                if consequence.statement not in unchanged:
                    by_statement.setdefault(consequence.statement, consequence)
        return list(by_statement.values())


def _apply(rule: Rule, edit: Statement, stated: Iterable[tuple[str, str]]) -> list[Consequence]:
    """Return what follows from s -r1-> o* by one rule; `stated` has (r2, z) of the statements o* -r2-> z."""
    subject, _, target = edit
    if rule.second is None and rule.arguments == "x,y":
        return [Consequence(Statement(subject, rule.head, target), rule, None)]
    if rule.second is None:
        return [Consequence(Statement(target, rule.head, subject), rule, None)]
    consequences = []
    for relation, value in stated:
        # A rule was mined from pairs of different x and z, so of z = x it says nothing. z may be y = o*, as in
        # Germany -country-> Germany.
        if relation == rule.second and value != subject:
            premise = Statement(target, rule.second, value)
            consequences.append(Consequence(Statement(subject, rule.head, value), rule, premise))
    return consequences


def read_rules(path: str | Path) -> Rules:
    """Read the rules of `wikidata-cache rules`: TSV with the columns rule, support, confidence, and any others.

    A header is left out; what the command prints has none.
    """
    path = user_path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadOptionError(f"{path} can't be read ({error}); expected a file of `wikidata-cache rules`.") from error
    rules = []
    for number, line in enumerate(lines, 1):
        cells = line.split("\t")
        if number == 1 and cells[0] in ("rule", ""):  # a header, or the one empty line of an empty file
            continue
        rules.append(_read_rule(cells, f"{path}, line {number}"))
    if not rules:
        raise BadOptionError(
            f"{path} has no rules; make it with `wikidata-cache rules GRAPH --out {quote(path.name)}`."
        )
    return Rules(rules)


def _read_rule(cells: Sequence[str], place: str) -> Rule:
    """Return the rule of a row; `place` is its file and line, for messages."""
    second = None
    match = _WITHOUT_SECOND.fullmatch(cells[0])
    match_with_second = _WITH_SECOND.fullmatch(cells[0])
    if match is not None:
        first, head, arguments = match.groups()
    elif match_with_second is not None:
        first, second, head, arguments = match_with_second.groups()
    else:
        raise BadOptionError(f"{place}, rule: found {cells[0]!r:.80}; expected such as P19(x,y) & P17(y,z) => P27(x,z)")
    try:
        support = int(cells[1])
        confidence = float(cells[2])
    except (IndexError, ValueError):
        raise BadOptionError(
            f"{place}, support and confidence: found {cells[1:3]}; expected a whole number and a number, such as 120 "
            f"and 0.85."
        ) from None
    return Rule(first, second, head, arguments, support, confidence)
