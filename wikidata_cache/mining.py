"""Mine rules from the statements of a graph: AMIE's support and PCA confidence, for bodies of one or two atoms.

A rule says that a pair of items in its body is also an edge of its head, such as r1(x,y) & r2(y,z) => r3(x,z). The pair
(x, z) is in this body if there is a y with x -r1-> y -r2-> z; it counts once, however many y it has, and x, y and z
are different items.

    support        = number of pairs (a, b) of the body that are an edge a -r3-> b
    PCA body size  = number of pairs (a, b) of the body whose a has any r3
    PCA confidence = support / PCA body size

Here (a, b) are the arguments of the head: (x, z), or (x, y) or (y, x) for a body of one atom.

`mine_rules` goes through the relations r1. `_Graph` holds the statements as sorted arrays: `join_edges` finds the pairs
of all bodies with one r1, `count_pairs` counts them for all r3 at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kg_common.progress import Bar
from wikidata_cache.deny_lists import read_meta_properties
from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import Statement
from wikidata_cache.subgraphs.rules import Rule, Rules

Ints = npt.NDArray[np.int64]
_PATHS = 2_000_000  # to join at a time; they take about 200 MB


class _Body(NamedTuple):
    """The body of a rule, as numbers of relations, and the arguments that its head takes from it."""

    first: int  # r1
    second: int | None  # r2, or None for a body of one atom
    arguments: str  # "x,z" with r2, else "x,y" or "y,x"


class _Pairs(NamedTuple):
    """Pairs (a, b) of different items, which the head may connect; all arrays are [pairs]."""

    group: Ints  # r2 of the body that a pair belongs to; all 0 for a body of one atom
    a: Ints  # first argument of the head
    b: Ints  # second argument of the head


class _Counts(NamedTuple):
    """Numbers of pairs, by their group and by r3: [relations, relations]."""

    support: Ints
    body_size: Ints


def mine_rules(statements: Iterable[Statement], *, support: int = 20, confidence: float = 0.5) -> Rules:
    """Return the rules of a graph with at least this support and PCA confidence.

    Housekeeping relations are left out, and relations with fewer statements than `support`.

    Args:
        statements: all statements of the graph.
        support: least number of pairs for which both the body and the head are in the graph.
        confidence: least PCA confidence, from 0 to 1.
    """
    least = max(1, support)
    graph = _Graph(statements, least=least)
    rules: list[Rule] = []
    with Bar(title="rules", unit="relation", total=len(graph.names), leave=False) as bar:
        for first in range(len(graph.names)):
            is_first = graph.relations == first
            x = graph.subjects[is_first]  # [edges of r1], sorted
            y = graph.objects[is_first]

            # Bodies of one atom: r1(x,y) => r3(x,y), and r1(x,y) => r3(y,x). All their pairs are in group 0.
            group_0 = np.zeros_like(x)
            counts = graph.count_pairs(_Pairs(group_0, x, y))
            rules += _select_rules(graph, _Body(first, None, "x,y"), counts, 0, least, confidence)
            counts = graph.count_pairs(_Pairs(group_0, y, x))
            rules += _select_rules(graph, _Body(first, None, "y,x"), counts, 0, least, confidence)

            # Bodies of two atoms: r1(x,y) & r2(y,z) => r3(x,z), for all r2 at once.
            counts = graph.count_joined(x, y)
            for second in np.flatnonzero(counts.support.any(axis=1)).tolist():
                body = _Body(first, second, "x,z")
                rules += _select_rules(graph, body, counts, second, least, confidence)
            bar.update(1)
    return Rules(rules)


def _select_rules(graph: _Graph, body: _Body, counts: _Counts, group: int, least: int, confidence: float) -> list[Rule]:
    """Return the rules of a body with enough support and confidence.

    Args:
        graph: the statements.
        body: the body.
        counts: the counts of all groups.
        group: the group of the body's pairs.
        least: least support; at least 1.
        confidence: least PCA confidence.
    """
    supports = counts.support[group]  # for each r3: [relations]
    body_sizes = counts.body_size[group]
    second_name = None
    if body.second is not None:
        second_name = graph.names[body.second]
    rules = []
    for head in np.flatnonzero(supports >= least).tolist():
        support = int(supports[head])
        share = round(support / int(body_sizes[head]), 4)
        is_trivial = body.arguments == "x,y" and head == body.first  # r1(x,y) => r1(x,y)
        if share >= confidence and not is_trivial:
            rules.append(Rule(graph.names[body.first], second_name, graph.names[head], body.arguments, support, share))
    return rules


class _Graph:
    """The statements as numbers, in three arrays [statements] that are sorted by subject, then by object.

    Loops (s -r-> s) are left out. The docstrings below work through this graph of the relations 0 and 1; its items
    are 0 to 3, so that there are 4 items:

        row       0  1  2  3  4
        subject   0  0  1  2  2
        object    1  2  3  0  3
        relation  0  0  1  1  1

    A pair of numbers (a, b) is kept as one number, a * (number of possible b) + b, because sorting and searching whole
    numbers is fast. `np.divmod` gives the pair back.
    """

    def __init__(self, statements: Iterable[Statement], *, least: int) -> None:
        items: dict[str, int] = {}
        relations: dict[str, int] = {}
        left_out = read_meta_properties()
        rows = []
        for subject, relation, target in statements:
            if relation in left_out or subject == target:
                continue
            s = items.setdefault(subject, len(items))
            r = relations.setdefault(relation, len(relations))
            o = items.setdefault(target, len(items))
            rows.append((s, o, r))
        table = np.unique(np.array(rows, dtype=np.int64).reshape(-1, 3), axis=0)  # sorted by s, o, r

        # Only frequent relations are kept. They get new numbers: the number of frequent relations before them.
        is_frequent = np.bincount(table[:, 2], minlength=len(relations)) >= least
        new_numbers = np.cumsum(is_frequent) - 1
        table = table[is_frequent[table[:, 2]]]
        self.names = [name for name, keep in zip(relations, is_frequent, strict=True) if keep]
        self.subjects = table[:, 0]
        self.objects = table[:, 1]
        self.relations = new_numbers[table[:, 2]]

        self._item_count = max(1, len(items))
        # The largest number that stands for several (in `_join_part`) has to fit into 64 bits.
        if self._item_count**2 * len(self.names) > np.iinfo(np.int64).max:
            raise BadOptionError(
                f"The graph has {len(items):,} items and {len(self.names):,} relations with enough statements, too "
                f"many for mining rules; give a larger support (--support), or a smaller graph."
            )
        self._edges = self.subjects * self._item_count + self.objects  # (s, o) of each row: 1 2 7 8 11 in the example
        # The pairs (subject, relation), each once, for the PCA body size: (0, 0), (1, 1) and (2, 1) in the example.
        count = max(1, len(self.names))
        pairs = np.unique(self.subjects * count + self.relations)
        self._subjects_once, self._relations_once = np.divmod(pairs, count)  # 0 1 2 and 0 1 1

    def count_joined(self, x: Ints, y: Ints) -> _Counts:
        """Count the pairs (x, z) of all bodies r1(x,y) & r2(y,z), from the edges x -> y of r1: [r2, r3]."""
        count = len(self.names)
        support = np.zeros((count, count), dtype=np.int64)
        body_size = np.zeros((count, count), dtype=np.int64)
        for pairs in self.join_edges(x, y):
            counts = self.count_pairs(pairs)
            support += counts.support
            body_size += counts.body_size
        return _Counts(support, body_size)

    def join_edges(self, x: Ints, y: Ints) -> Iterator[_Pairs]:
        """Yield the pairs (x, z) of the paths x -r1-> y -r2-> z, grouped by r2, each once.

        With r1 = 0 in the example of the class: x = 0 0, and y = 1 2. One edge leaves item 1, in row 2, and two leave
        item 2, in rows 3 and 4. This gives three paths: 0 -> 1 -> 3, 0 -> 2 -> 0 and 0 -> 2 -> 3. The second one ends
        where it begins, so it is dropped; the first and the last give one pair, (0, 3) of group r2 = 1.

        Args:
            x: subjects of the edges of r1, sorted: [edges].
            y: their objects: [edges].

        Returns:
            The pairs in parts of about `_PATHS` paths. All paths of an x are in one part, so no pair is in two parts.
        """
        first_rows, degrees = _find_spans(self.subjects, y)  # of the edges that leave y: [edges]
        start = 0
        for end in _find_part_ends(x, degrees, limit=_PATHS):
            yield self._join_part(x[start:end], first_rows[start:end], degrees[start:end])
            start = end

    def _join_part(self, x: Ints, first_rows: Ints, degrees: Ints) -> _Pairs:
        """Return the pairs (x, z) of the paths that begin with some edges x -> y, grouped by r2, each once.

        Args:
            x: subjects of the edges: [edges].
            first_rows: the first row of the edges y -r2-> z that follow each edge: [edges].
            degrees: the number of these rows: [edges].
        """
        # One entry for each path: `edge` is its edge x -> y, `row` the row of its edge y -r2-> z.
        edge, row = _expand_spans(first_rows, degrees)  # [paths]
        path_x = x[edge]
        path_r2 = self.relations[row]
        path_z = self.objects[row]
        key = (path_x * len(self.names) + path_r2) * self._item_count + path_z  # (x, r2, z) as one number: [paths]
        is_open = path_x != path_z
        # Equal paths are next to each other once sorted. np.unique hashes instead, which takes ten times as long
        # for the paths of a hub.
        key = np.sort(key[is_open])
        is_new = np.diff(key, prepend=-1) > 0  # each key that differs from the one before it
        x_and_r2, z = np.divmod(key[is_new], self._item_count)  # [pairs]
        pair_x, r2 = np.divmod(x_and_r2, len(self.names))
        return _Pairs(r2, pair_x, z)

    def count_pairs(self, pairs: _Pairs) -> _Counts:
        """Count, for each group and each r3, the pairs that are an edge a -r3-> b, and those whose a has any r3.

        The comments of both functions work through the pair (0, 3) of group 1, in the example of the class.
        """
        return _Counts(self._count_support(pairs), self._count_body_size(pairs))

    def _count_support(self, pairs: _Pairs) -> Ints:
        """Return the number of pairs that are an edge a -r3-> b: [relations, relations], by group and r3."""
        count = len(self.names)
        a_and_b = pairs.a * self._item_count + pairs.b  # [pairs]
        first_rows, edge_counts = _find_spans(self._edges, a_and_b)
        # One entry for each edge from the a to the b of a pair: the pair, and the row of the edge. In the example, no
        # edge leads from 0 to 3, so there is no entry, and all support is 0.
        pair, row = _expand_spans(first_rows, edge_counts)  # [joining edges]
        cells = pairs.group[pair] * count + self.relations[row]  # (group, r3) as one number
        return np.bincount(cells, minlength=count * count).reshape(count, count)

    def _count_body_size(self, pairs: _Pairs) -> Ints:
        """Return the number of pairs whose a has any r3: [relations, relations], by group and r3."""
        count = len(self.names)
        # The pairs of one group with the same a are counted together, since their a has the same relations.
        group_and_a = pairs.group * self._item_count + pairs.a  # [pairs]
        distinct, pair_counts = np.unique(group_and_a, return_counts=True)  # [distinct]
        groups, a = np.divmod(distinct, self._item_count)
        first_places, relation_counts = _find_spans(self._subjects_once, a)
        # One entry for each (group, a) in `distinct` and each relation of its a, which is at `place` in
        # `_relations_once`. In the example, the only entry is group 1 and a = 0 with the relation 0, at place 0, so
        # body_size[1, 0] is 1.
        which_distinct, place = _expand_spans(first_places, relation_counts)  # [entries]
        cells = groups[which_distinct] * count + self._relations_once[place]  # (group, r3) as one number
        weights = pair_counts[which_distinct]
        sizes = np.bincount(cells, weights=weights, minlength=count * count)  # floats, but whole numbers
        return sizes.astype(np.int64).reshape(count, count)


def _find_part_ends(x: Ints, degrees: Ints, *, limit: int) -> list[int]:
    """Return where to cut edges into parts of about `limit` paths, without cutting the edges of one x apart.

    For five edges with x = 1 1 2 3 3 and degrees = 2 1 4 1 1, and a limit of 5 paths, the comments give each step.

    Args:
        x: subjects of the edges, sorted: [edges].
        degrees: number of paths that begin with each edge: [edges].
        limit: about the number of paths of a part. A part ends before the x with which the number of all paths so
            far reaches the next multiple of `limit`. That x begins the next part, which may so get more than `limit`:
            in the example, the parts have 3 and 6 paths.
    """
    ends = np.flatnonzero(np.diff(x, append=-1)) + 1  # 2 3 5, where the edges of an x end
    paths_so_far = np.cumsum(degrees)[ends - 1]  # 3 7 9, with those of this x
    part = paths_so_far // limit  # 0 1 1, the part to which this x belongs
    is_last = np.diff(part, append=-1) != 0  # yes, no, yes
    part_ends: list[int] = ends[is_last].tolist()  # 2 5
    return part_ends


def _find_spans(table: Ints, values: Ints) -> tuple[Ints, Ints]:
    """Return where each value begins in a sorted table, and how often it is there: two arrays [values]."""
    first = np.searchsorted(table, values, "left")
    return first, np.searchsorted(table, values, "right") - first


def _expand_spans(first: Ints, lengths: Ints) -> tuple[Ints, Ints]:
    """Return, for each entry of each span of a table, the number of the span and the place of the entry.

    The spans first = 4 0 7, lengths = 2 0 3 have five entries; the comments give each step.

    Args:
        first: place at which each span begins: [spans].
        lengths: number of its entries: [spans].

    Returns:
        Two arrays [entries], where entries = sum of the lengths.
    """
    span = np.repeat(np.arange(len(first)), lengths)  # 0 0 2 2 2
    entries_before = np.cumsum(lengths) - lengths  # 0 2 2, in earlier spans
    offset = np.arange(len(span)) - entries_before[span]  # 0 1 0 1 2, within the span
    return span, first[span] + offset  # places 4 5 7 8 9
