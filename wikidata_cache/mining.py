"""Mine rules from the statements of a graph: AMIE's support and PCA confidence, for bodies of one or two atoms.

For each relation r1, its edges x -> y are joined with all edges y -r2-> z: each (x, z) is a pair of the body
r1(x,y) & r2(y,z). The support of a rule counts the pairs that are an edge x -r3-> z too; its PCA confidence divides it
by the number of the pairs whose x has any r3. A pair counts once, however many y it has; x, y and z are different.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from kg_common.progress import Bar
from wikidata_cache.deny_lists import meta_properties
from wikidata_cache.ids import Statement
from wikidata_cache.subgraphs.rules import Rule, Rules

Ints = npt.NDArray[np.int64]
_ROWS = 2_000_000  # joined edges at a time, about 200 MB


def mine_rules(statements: Iterable[Statement], *, support: int = 20, confidence: float = 0.5) -> Rules:
    """Return the rules of a graph with at least this support and PCA confidence.

    Housekeeping relations are left out, and relations with fewer statements than `support`.

    Args:
        statements: all statements of the graph.
        support: least number of pairs for which both the body and the head are in the graph.
        confidence: least PCA confidence, from 0 to 1.
    """
    graph = _Graph(statements, least=support)
    rules: list[Rule] = []

    def keep(first: int, second: int | None, arguments: str, heads: Ints, bodies: Ints) -> None:
        for head in np.flatnonzero(heads >= max(1, support)).tolist():
            share = round(float(heads[head] / bodies[head]), 4)
            if share >= confidence and (arguments, head) != ("x,y", first):
                names = graph.names[first], None if second is None else graph.names[second], graph.names[head]
                rules.append(Rule(*names, arguments, int(heads[head]), share))

    with Bar(title="rules", unit="relation", total=len(graph.names), leave=False) as bar:
        for first in range(len(graph.names)):
            chosen = graph.r == first
            # sorted by subject
            x = graph.s[chosen]
            y = graph.o[chosen]
            alone = np.zeros_like(x)  # one group: there is no r2
            for arguments, (a, b) in {"x,y": (x, y), "y,x": (y, x)}.items():
                heads, bodies = graph.measures(alone, a, b)
                keep(first, None, arguments, heads[0], bodies[0])
            totals = np.zeros((2, len(graph.names), len(graph.names)), dtype=np.int64)
            for group, a, b in graph.joined(x, y):
                totals += graph.measures(group, a, b)
            for second in np.flatnonzero(totals[0].any(axis=1)).tolist():
                keep(first, second, "x,z", totals[0, second], totals[1, second])
            bar.update(1)
    return Rules(rules)


class _Graph:
    """Statements as numbers, without loops: `s`, `r` and `o`, sorted by s and then o; `names` are the relations."""

    def __init__(self, statements: Iterable[Statement], *, least: int) -> None:
        items: dict[str, int] = {}
        relations: dict[str, int] = {}
        left_out = meta_properties()
        rows = [
            (items.setdefault(s, len(items)), relations.setdefault(p, len(relations)), items.setdefault(o, len(items)))
            for s, p, o in statements
            if p not in left_out and s != o
        ]
        table = np.unique(np.array(rows, dtype=np.int64).reshape(-1, 3)[:, [0, 2, 1]], axis=0)
        frequent = np.bincount(table[:, 2], minlength=len(relations)) >= least
        table = table[frequent[table[:, 2]]]
        numbers = np.cumsum(frequent) - 1
        self.names = [name for name, kept in zip(relations, frequent, strict=True) if kept]
        self.s = table[:, 0]
        self.o = table[:, 1]
        self.r = numbers[table[:, 2]]
        self._size = len(items) + 1
        self._pairs = self.s * self._size + self.o
        # The relations that each item has, for the PCA confidence.
        having = np.unique(self.s * len(self.names) + self.r) if self.names else np.zeros(0, dtype=np.int64)
        self._having, self._had = np.divmod(having, max(1, len(self.names)))

    def joined(self, x: Ints, y: Ints) -> Iterator[tuple[Ints, Ints, Ints]]:
        """Yield (r2, x, z) of the distinct paths x -> y -r2-> z, in parts; all paths of an x are in one part."""
        first, many = _spans(self.s, y)
        # A part ends where x changes, at the latest when its paths are too many.
        ends = np.flatnonzero(np.diff(x, append=-1)) + 1
        parts = np.flatnonzero(np.diff(np.cumsum(many)[ends - 1] // _ROWS, append=-1)) if len(ends) else ends
        start = 0
        for end in ends[parts].tolist():
            rows, positions = _expanded(first[start:end], many[start:end])
            source = x[start:end][rows]
            relation = self.r[positions]
            target = self.o[positions]
            source, relation, target = (part[source != target] for part in (source, relation, target))
            key = np.sort((source * len(self.names) + relation) * self._size + target)
            key = key[np.diff(key, prepend=-1) > 0]  # np.unique hashes, which takes ten times as long for a hub's paths
            key, target = np.divmod(key, self._size)
            source, relation = np.divmod(key, len(self.names))
            yield relation, source, target
            start = end

    def measures(self, group: Ints, a: Ints, b: Ints) -> npt.NDArray[np.int64]:
        """Return the pairs (a, b) that are an edge, and those whose a has the relation: [2, groups, relations]."""
        count = len(self.names)
        rows, positions = _expanded(*_spans(self._pairs, a * self._size + b))
        heads = np.bincount(group[rows] * count + self.r[positions], minlength=count * count)
        # Pairs of one group and one a have the same relations, so they are counted first.
        keys, many = np.unique(group * self._size + a, return_counts=True)
        groups, starts = np.divmod(keys, self._size)
        rows, positions = _expanded(*_spans(self._having, starts))
        bodies = np.bincount(groups[rows] * count + self._had[positions], weights=many[rows], minlength=count * count)
        return np.stack([heads, bodies.astype(np.int64)]).reshape(2, count, count)


def _spans(table: Ints, values: Ints) -> tuple[Ints, Ints]:
    """Return where each wanted value begins in a sorted table, and how often it is there."""
    first = np.searchsorted(table, values, "left")
    return first, np.searchsorted(table, values, "right") - first


def _expanded(first: Ints, many: Ints) -> tuple[Ints, Ints]:
    """Return, for spans of a table, the number of its span and the place of each of their entries."""
    rows = np.repeat(np.arange(len(first)), many)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(many) - many, many) + first[rows]
