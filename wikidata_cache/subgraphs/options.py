"""The options of a subgraph (`SubgraphPlan`) and its guards against giving the test away (`Leakage`), checked once."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Literal, get_args

from wikidata_cache.errors import BadOptionError
from wikidata_cache.subgraphs.sampling import Policy

Root = Literal["target_new", "subject", "target_true"]
"""An end of the edit whose statements are expanded."""
Direction = Literal["out", "both"]
"""Which statements of an item are followed: those about it, or also those that point at it."""
Statements = Literal["truthy", "all"]
"""Which ranks count: the best one of each property, or all but deprecated ones."""

_LEAST = {"hops": 1, "per_node": 0, "max_edges": 1}
_CHOICES = {"policy": get_args(Policy), "direction": get_args(Direction), "statements": get_args(Statements)}


@dataclass(frozen=True)
class Leakage:
    """What a subgraph must not contain, so that it does not give the answers of a test away.

    No statement leads to or from one of the `answers`, which are item ids, or labels (compared without case,
    width and surplus spaces); the edit's own subject and new object are exempt, as they are in the prompt.
    `drop_old_edge=False` lets the replaced edge s -r-> o in, for control experiments.
    Raises BadOptionError where `answers` is one string or holds an empty one.
    """

    answers: tuple[str, ...] = ()
    drop_old_edge: bool = True

    def __post_init__(self) -> None:
        given: object = self.answers
        if isinstance(given, str) or not all(isinstance(text, str) and text.strip() for text in self.answers):
            raise BadOptionError(f"answers={self.answers!r}: expected a tuple of ids or labels, none of them empty.")
        object.__setattr__(self, "answers", tuple(self.answers))

    def gives_away(self, node: str, label: str | None) -> bool:
        """Whether a node is an answer, by its id or its label."""
        return bool(self.answers) and (node in self.answers or (label is not None and folded(label) in self._folded))

    def provenance(self) -> dict[str, object]:
        """The guards as plain JSON values."""
        return {"answers": list(self.answers), "drop_old_edge": self.drop_old_edge}

    @cached_property
    def _folded(self) -> frozenset[str]:
        return frozenset(folded(answer) for answer in self.answers)


@dataclass(frozen=True)
class SubgraphPlan:
    """How a subgraph is made; `WikidataCache.subgraph` documents each option. Raises BadOptionError for bad values."""

    hops: int = 2
    per_node: int = 20
    seed: int = 0
    roots: Sequence[Root] = ("target_new",)
    max_edges: int | None = None
    policy: Policy = "uniform"
    direction: Direction = "out"
    statements: Statements = "truthy"
    leakage: Leakage = field(default_factory=Leakage)

    def __post_init__(self) -> None:
        for name in ("hops", "per_node", "seed", "max_edges"):
            value = getattr(self, name)
            if not (isinstance(value, Integral) or (value is None and name == "max_edges")):
                raise BadOptionError(f"{name}={value!r}: expected a whole number.")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise BadOptionError(f"{name}={value}: expected at least {least}.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise BadOptionError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(choices)}.")
        if isinstance(self.roots, str) or not set(self.roots) <= set(get_args(Root)):
            raise BadOptionError(f"roots={self.roots!r}: expected a sequence from {', '.join(get_args(Root))}.")
        if not isinstance(self.leakage, Leakage):
            raise BadOptionError(f"leakage={self.leakage!r}: expected a Leakage, such as Leakage(answers=('Q65',)).")

    @property
    def incoming(self) -> bool:
        """Whether nodes are expanded along their incoming statements too."""
        return self.direction == "both"

    @property
    def claims(self) -> bool:
        """Whether statements of every rank are wanted, with ranks and times."""
        return self.statements == "all"

    def provenance(self) -> dict[str, object]:
        """The options as plain JSON values."""
        return vars(self) | {"roots": list(self.roots), "leakage": self.leakage.provenance()}


def folded(text: str) -> str:
    """A label as it is compared with another: without case, width (NFKC) and surplus spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
