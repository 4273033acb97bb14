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
    least = max(1, support)
    rules: list[Rule] = []
    with Bar(title="rules", unit="relation", total=len(graph.names), leave=False) as bar:
        for first in range(len(graph.names)):
            chosen = graph.r == first
            x = graph.s[chosen]  # sorted
            y = graph.o[chosen]
            # Bodies of one atom: r1(x,y) => r3(x,y), and r1(x,y) => r3(y,x).
            one_group = np.zeros_like(x)  # there is no r2 to group by
            measures = graph.measure(one_group, x, y)[:, 0]
            rules += _select(graph, (first, None, "x,y"), measures, least, confidence)
            measures = graph.measure(one_group, y, x)[:, 0]
            rules += _select(graph, (first, None, "y,x"), measures, least, confidence)
            # Bodies of two atoms: r1(x,y) & r2(y,z) => r3(x,z), for all r2 at once.
            totals = np.zeros((2, len(graph.names), len(graph.names)), dtype=np.int64)  # [2, r2, r3]
            for relations, a, b in graph.join(x, y):
                totals += graph.measure(relations, a, b)
            for second in np.flatnonzero(totals[0].any(axis=1)).tolist():
                rules += _select(graph, (first, second, "x,z"), totals[:, second], least, confidence)
            bar.update(1)
    return Rules(rules)


def _select(
    graph: _Graph, body: tuple[int, int | None, str], measures: Ints, support: int, confidence: float
) -> list[Rule]:
    """Return the rules of a body with enough support and confidence.

    Args:
        graph: the statements.
        body: r1, r2 (or None), and the arguments of the head.
        measures: for each r3, the pairs of the body that are an edge, and those whose first item has it: [2, r3].
        support: least number of pairs.
        confidence: least PCA confidence.
    """
    first, second, arguments = body
    names = graph.names
    second_name = None
    if second is not None:
        second_name = names[second]
    heads, bodies = measures
    rules = []
    for head in np.flatnonzero(heads >= support).tolist():
        share = round(float(heads[head] / bodies[head]), 4)
        is_trivial = arguments == "x,y" and head == first  # r1(x,y) => r1(x,y)
        if share >= confidence and not is_trivial:
            rules.append(Rule(names[first], second_name, names[head], arguments, int(heads[head]), share))
    return rules


class _Graph:
    """Statements as numbers, without loops: `s`, `r` and `o`, sorted by s and then o; `names` are the relations."""

    def __init__(self, statements: Iterable[Statement], *, least: int) -> None:
        items: dict[str, int] = {}
        relations: dict[str, int] = {}
        left_out = meta_properties()
        rows = []
        for subject, relation, target in statements:
            if relation in left_out or subject == target:
                continue
            s = items.setdefault(subject, len(items))
            r = relations.setdefault(relation, len(relations))
            o = items.setdefault(target, len(items))
            rows.append((s, o, r))
        table = np.unique(np.array(rows, dtype=np.int64).reshape(-1, 3), axis=0)  # sorted by s, o, r
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
        count = max(1, len(self.names))
        self._having, self._had = np.divmod(np.unique(self.s * count + self.r), count)

    def join(self, x: Ints, y: Ints) -> Iterator[tuple[Ints, Ints, Ints]]:
        """Yield (r2, x, z) of the distinct paths x -> y -r2-> z, in parts; all paths of an x are in one part."""
        first, many = _find_spans(self.s, y)
        # A part ends where x changes, at the latest when its paths are too many.
        ends = np.flatnonzero(np.diff(x, append=-1)) + 1
        parts = np.flatnonzero(np.diff(np.cumsum(many)[ends - 1] // _ROWS, append=-1))
        start = 0
        for end in ends[parts].tolist():
            rows, positions = _expand(first[start:end], many[start:end])
            source = x[start:end][rows]
            relation = self.r[positions]
            target = self.o[positions]
            is_path = source != target
            # One number for (x, r2, z), so that equal paths are equal numbers, next to each other once sorted.
            key = (source[is_path] * len(self.names) + relation[is_path]) * self._size + target[is_path]
            key = np.sort(key)
            key = key[np.diff(key, prepend=-1) > 0]  # np.unique hashes, which takes ten times as long for a hub's paths
            key, target = np.divmod(key, self._size)
            source, relation = np.divmod(key, len(self.names))
            yield relation, source, target
            start = end

    def measure(self, group: Ints, a: Ints, b: Ints) -> npt.NDArray[np.int64]:
        """Return the pairs (a, b) that are an edge, and those whose a has the relation: [2, groups, relations]."""
        count = len(self.names)
        rows, positions = _expand(*_find_spans(self._pairs, a * self._size + b))
        heads = np.bincount(group[rows] * count + self.r[positions], minlength=count * count)
        # Pairs of one group and one a have the same relations, so they are counted first.
        keys, many = np.unique(group * self._size + a, return_counts=True)
        groups, starts = np.divmod(keys, self._size)
        rows, positions = _expand(*_find_spans(self._having, starts))
        bodies = np.bincount(groups[rows] * count + self._had[positions], weights=many[rows], minlength=count * count)
        return np.stack([heads, bodies.astype(np.int64)]).reshape(2, count, count)


def _find_spans(table: Ints, values: Ints) -> tuple[Ints, Ints]:
    """Return where each wanted value begins in a sorted table, and how often it is there."""
    first = np.searchsorted(table, values, "left")
    return first, np.searchsorted(table, values, "right") - first


def _expand(first: Ints, many: Ints) -> tuple[Ints, Ints]:
    """Return, for spans of a table, the number of its span and the place of each of their entries."""
    rows = np.repeat(np.arange(len(first)), many)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(many) - many, many) + first[rows]
