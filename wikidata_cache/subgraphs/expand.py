"""Expand the neighbourhoods of many edits breadth-first, with shared requests: one batch per hop for all edits.

Each round fetches the statements of every frontier node, drops the statements that an edit forbids, samples `per_node`
statements of each node (`sampling.py`), and takes the nodes it has reached as the next frontier.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from wikidata_cache.ids import Statement
from wikidata_cache.subgraphs.facts import Facts
from wikidata_cache.subgraphs.options import SubgraphOptions
from wikidata_cache.subgraphs.sampling import other_end, sample


class SampledStatement(NamedTuple):
    """A sampled statement, its hop, and the node that was expanded along it (one end of the statement)."""

    hop: int
    statement: Statement
    node: str

    @property
    def reached(self) -> str:
        """The node at the statement's other end."""
        return other_end(self.statement, self.node)


@dataclass
class Expansion:
    """The neighbourhood of one edit while it is expanded.

    - `frontier` are the nodes to expand next; `hops` maps each node to the hop at which it was reached.
    - `closed` returns True for nodes that may be reached but not expanded.
    - `forbidden` returns the reason to leave out a statement, or None.
    - `named` are entities for which the edit itself has a label.
    - `steps` are the sampled statements; `hubs` are nodes that were not expanded along their incoming statements;
      `dropped` counts the statements that were left out, by reason.
    """

    frontier: Sequence[str]
    hops: dict[str, int]
    closed: Callable[[str], bool] = lambda node: False
    forbidden: Callable[[Statement], str | None] = lambda statement: None
    named: Collection[str] = ()
    steps: dict[Statement, SampledStatement] = field(default_factory=dict)
    hubs: list[str] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    def eligible(self, facts: Facts, options: SubgraphOptions) -> dict[str, list[Statement]]:
        """Return the statements that may be sampled, by frontier node; the facts must be prefetched."""
        if options.incoming:
            self.hubs += filter(facts.is_hub, self.frontier)
        return {node: self._allowed(self._usable(node, facts, options)) for node in self.frontier}

    def advance(
        self, eligible: Mapping[str, Sequence[Statement]], degrees: Mapping[str, int], options: SubgraphOptions, m: int
    ) -> None:
        """Sample m of the `eligible` statements of each frontier node; the nodes they reach are the next frontier.

        `degrees` are in-degrees, which only the policy "inverse-hub" uses.
        """
        reached: dict[str, None] = {}
        for node, offered in eligible.items():
            chosen = sample(offered, m, node=node, seed=options.seed, policy=options.policy, degrees=degrees)
            self.dropped["not_sampled"] += len(offered) - len(chosen)
            for statement in chosen:
                self._take(SampledStatement(self.hops[node] + 1, statement, node), reached)
        self.frontier = list(reached)

    def _usable(self, node: str, facts: Facts, options: SubgraphOptions) -> list[Statement]:
        named, dropped = self.named, self.dropped
        return facts.usable(node, incoming=options.incoming, claims=options.claims, named=named, dropped=dropped)

    def _allowed(self, statements: Sequence[Statement]) -> list[Statement]:
        reasons = [self.forbidden(statement) for statement in statements]
        self.dropped.update(reason for reason in reasons if reason is not None)
        return [s for s, reason in zip(statements, reasons, strict=True) if reason is None]

    def _take(self, step: SampledStatement, reached: dict[str, None]) -> None:
        self.steps.setdefault(step.statement, step)  # a statement may be sampled from both of its ends
        if step.reached not in self.hops:
            self.hops[step.reached] = step.hop
            if not self.closed(step.reached):
                reached[step.reached] = None


def expand(
    facts: Facts,
    expansions: Sequence[Expansion],
    options: SubgraphOptions,
    *,
    per_node: Sequence[int],
    also: Collection[str] = (),
) -> None:
    """Expand all neighbourhoods in place, one round for each entry of `per_node`.

    An entry is the number of statements to keep per node in this round. `also` are ids whose labels are fetched in the
    same requests. Raises TruthyOnlyError as `Facts.prefetch` does.
    """
    for m in per_node:
        frontier = sorted({node for expansion in expansions for node in expansion.frontier})
        facts.prefetch(frontier, incoming=options.incoming, claims=options.claims, also=also)
        eligible = [expansion.eligible(facts, options) for expansion in expansions]
        degrees = facts.degrees(_ends(eligible)) if options.policy == "inverse-hub" else {}
        for expansion, offered in zip(expansions, eligible, strict=True):
            expansion.advance(offered, degrees, options, m)


def _ends(eligible: Sequence[Mapping[str, Sequence[Statement]]]) -> set[str]:
    """Return the nodes to which the statements lead."""
    return {other_end(s, node) for offered in eligible for node, statements in offered.items() for s in statements}
