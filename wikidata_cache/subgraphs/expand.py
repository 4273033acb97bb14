"""Breadth-first expansion of many edits at once: one batch of requests a hop for all of them."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from wikidata_cache.ids import Statement
from wikidata_cache.subgraphs.facts import Facts
from wikidata_cache.subgraphs.sample import bottom_m


class Step(NamedTuple):
    """A sampled statement and the hop it belongs to."""

    hop: int
    statement: Statement


@dataclass
class Expansion:
    """One edit's growing neighbourhood. `hops` maps each node to the hop at which it was first reached.

    Nodes in `closed` are reached but never expanded, statements that `forbidden` gives a reason against are
    never taken, and `named` holds entities that the edit itself puts into words.
    """

    frontier: Sequence[str]
    hops: dict[str, int]
    closed: Callable[[str], bool] = lambda node: False
    forbidden: Callable[[Statement], str | None] = lambda statement: None
    named: Collection[str] = ()
    steps: list[Step] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    def advance(self, facts: Facts, *, per_node: int, seed: int) -> None:
        """Expand the frontier by one hop from prefetched facts; what was reached is the next frontier."""
        reached: dict[str, None] = {}
        for node in self.frontier:
            allowed = self._allowed(facts.usable(node, named=self.named, dropped=self.dropped))
            chosen = bottom_m(allowed, per_node, seed=seed)
            self.dropped["not_sampled"] += len(allowed) - len(chosen)
            self._take(self.hops[node] + 1, chosen, reached)
        self.frontier = list(reached)

    def _allowed(self, statements: Sequence[Statement]) -> list[Statement]:
        reasons = [self.forbidden(statement) for statement in statements]
        self.dropped.update(reason for reason in reasons if reason is not None)
        return [s for s, reason in zip(statements, reasons, strict=True) if reason is None]

    def _take(self, hop: int, chosen: Sequence[Statement], reached: dict[str, None]) -> None:
        for statement in chosen:
            self.steps.append(Step(hop, statement))
            if statement.object not in self.hops:
                self.hops[statement.object] = hop
                if not self.closed(statement.object):
                    reached[statement.object] = None


def expand(facts: Facts, expansions: Sequence[Expansion], *, per_node: Sequence[int], seed: int) -> None:
    """Grow the expansions in place, one round for each entry of `per_node` (statements a node keeps)."""
    for keep in per_node:
        facts.prefetch(sorted({node for expansion in expansions for node in expansion.frontier}))
        for expansion in expansions:
            expansion.advance(facts, per_node=keep, seed=seed)
