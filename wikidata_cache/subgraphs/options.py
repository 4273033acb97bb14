"""`SubgraphOptions`, the options of a subgraph, and `Leakage`, the statements that it must not contain.

Both check their values when they are made.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from numbers import Integral
from typing import Literal, get_args

from wikidata_cache.errors import BadOptionError
from wikidata_cache.subgraphs.rules import Rules
from wikidata_cache.subgraphs.sampling import Policy

Root = Literal["target_new", "subject", "target_true"]
"""An end of the edit whose statements are expanded."""
Direction = Literal["out", "both"]
"""The statements along which an item is expanded: its own ("out"), or also those with it as value ("both")."""
Statements = Literal["truthy", "all"]
"""The ranks that count: the best rank of each property ("truthy"), or all ranks except deprecated ("all")."""


@dataclass(frozen=True)
class Leakage:
    """What a subgraph must not contain, so that it does not reveal the answers of a test.

    Args:
        answers: item ids, or labels, which are compared without case, width and extra spaces. No statement leads to or
            from one of them. An id that was merged into another item means that item. The edit's own subject and new
            object are exempt, since the prompt has them.
        drop_old_edge: leave out the replaced edge s -r-> o; False is for control experiments.

    Raises:
        BadOptionError: `answers` is a single string or contains an empty string.
    """

    answers: tuple[str, ...] = ()
    drop_old_edge: bool = True

    def __post_init__(self) -> None:
        found: object = self.answers  # any type: callers may not have checked it
        answers = tuple(self.answers)  # first, since a generator can be read only once
        are_texts = all(isinstance(text, str) and text.strip() for text in answers)
        if isinstance(found, str) or not are_texts:
            raise BadOptionError(f"answers={found!r}: expected a tuple of ids or labels, none of them empty.")
        object.__setattr__(self, "answers", answers)

    def gives_away(self, node: str, names: Iterable[str]) -> bool:
        """Return whether a node is an answer, by its id or one of its names."""
        return node in self.answers or any(fold(name) in self._folded for name in names)

    def add_answers(self, answers: Iterable[str]) -> Leakage:
        """Return a copy with further answers."""
        return Leakage((*self.answers, *answers), self.drop_old_edge)

    def provenance(self) -> dict[str, object]:
        """Return the settings as plain JSON values."""
        return {"answers": list(self.answers), "drop_old_edge": self.drop_old_edge}

    @cached_property
    def _folded(self) -> frozenset[str]:
        return frozenset(fold(answer) for answer in self.answers)


MOST_HOPS = 100  # no two items of Wikidata are so far apart


@dataclass(frozen=True, kw_only=True)
class SubgraphOptions:
    """The options of a subgraph.

    Args:
        hops: greatest distance from the edit's subject. The edge s -r-> o* of the edit is hop 1, the statements of o*
            are hop 2. Around a single item (`WikidataCache.neighbourhood`), its own statements are hop 1.
        per_node: statements to keep of each expanded node.
        seed: seed of the sampling.
        roots: ends of the edit whose statements are expanded. Without "subject", the statements of s stay out.
        max_edges: keep only this many edges, the nearest ones; the edge of the edit is always one of them. Edges that
            `rules` add are not counted.
        policy: which statements of a node are kept (`sampling.py`).
        direction: "both" also expands along incoming statements; every edge keeps its true direction. A hub, a node
            with more than 500 incoming statements, is not expanded along them.
        statements: "all" takes statements of every rank except deprecated, not only the truthy ones. Each edge then
            has `rank`, `start` and `end` (of the claim of best rank, of several the latest) and the list `claims`.
            Incoming statements are always truthy ones. The source must have full statements.
        leakage: statements to leave out because they reveal the answers of a test.
        rules: keep only those statements of o* from which a fact follows by a rule and the edit, the most confident
            ones, and add these facts as edges with the role "consequence", `rule`, `support` and `confidence`. Facts
            that the graph has already do not change, and are left out.
        values: also take statements whose value is a date or a quantity: nodes with a label such as "30 December 1984"
            or "206 centimetre" and a key of `wikidata_cache.values`, which are never expanded. This can't be combined
            with statements="all" or with `rules`.

    Raises:
        BadOptionError: an option has a bad value.
    """

    hops: int = 2
    per_node: int = 20
    seed: int = 0
    roots: Sequence[Root] = ("target_new",)
    max_edges: int | None = None
    policy: Policy = "uniform"
    direction: Direction = "out"
    statements: Statements = "truthy"
    leakage: Leakage = field(default_factory=Leakage)
    rules: Rules | None = None
    values: bool = False

    def __post_init__(self) -> None:
        self._set_number("hops", least=1, most=MOST_HOPS)
        self._set_number("per_node", least=0)
        self._set_number("seed")
        if self.max_edges is not None:
            self._set_number("max_edges", least=1)
        self._check_choice("policy", get_args(Policy))
        self._check_choice("direction", get_args(Direction))
        self._check_choice("statements", get_args(Statements))
        roots = tuple(self.roots)
        if isinstance(self.roots, str) or not set(roots) <= set(get_args(Root)):
            raise BadOptionError(f"roots={self.roots!r}: expected a sequence from {', '.join(get_args(Root))}.")
        object.__setattr__(self, "roots", roots)
        if not isinstance(self.leakage, Leakage):
            raise BadOptionError(f"leakage={self.leakage!r}: expected a Leakage, such as Leakage(answers=('Q65',)).")
        if not isinstance(self.rules, Rules | None):
            raise BadOptionError(f"rules={self.rules!r}: expected Rules, such as read_rules('rules.tsv').")
        if self.values and self.rules is not None:
            raise BadOptionError(
                "values=True reads statements of best rank, and can't be combined with rules; leave one out."
            )
        if self.values and self.claims:
            raise BadOptionError(
                "values=True reads statements of best rank, and can't be combined with statements='all'; leave one out."
            )

    def _set_number(self, name: str, *, least: int | None = None, most: int | None = None) -> None:
        """Check the number of an option, and set it as a Python `int`."""
        value = getattr(self, name)
        if not isinstance(value, Integral):
            raise BadOptionError(f"{name}={value!r}: expected a whole number.")
        number = int(value)
        if least is not None and number < least:
            raise BadOptionError(f"{name}={number}: expected at least {least}.")
        if most is not None and number > most:
            raise BadOptionError(f"{name}={number}: expected at most {most}.")
        object.__setattr__(self, name, number)  # JSON cannot hold the integers of numpy

    def _check_choice(self, name: str, choices: Sequence[str]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise BadOptionError(f"{name}={value!r}: expected one of {', '.join(choices)}.")

    @property
    def incoming(self) -> bool:
        """Whether nodes are also expanded along their incoming statements."""
        return self.direction == "both"

    @property
    def claims(self) -> bool:
        """Whether `statements` is "all": then edges have ranks and times, which only full statements (claims) have."""
        return self.statements == "all"

    def changed(self) -> tuple[str, ...]:
        """Return the names of the options that differ from the defaults."""
        return tuple(name for name, value in vars(self).items() if value != getattr(DEFAULTS, name))

    def provenance(self) -> dict[str, object]:
        """Return the options as plain JSON values."""
        plain: dict[str, object] = dict(vars(self))
        plain["roots"] = list(self.roots)
        plain["leakage"] = self.leakage.provenance()
        # `rules` and `values` are only recorded where they are used.
        del plain["rules"]
        if self.rules is not None:
            plain["rules"] = self.rules.provenance()
        if not self.values:
            del plain["values"]
        return plain


DEFAULTS = SubgraphOptions()
OPTION_NAMES = frozenset(option.name for option in fields(SubgraphOptions))


def check_options(options: object) -> None:
    """Raise BadOptionError for options of another type, such as the number of hops itself."""
    if not isinstance(options, SubgraphOptions):
        raise BadOptionError(f"options={options!r}: expected SubgraphOptions, such as SubgraphOptions(hops=2).")


def fold(text: str) -> str:
    """Return a label in the form for comparison: without case, width (NFKC) and extra spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
