"""Reproducible sampling of a node's statements: sort them by a hash-based order, and keep the first m.

The priority of a statement is the BLAKE2b-128 hash of "seed|subject|property|object" (bottom-m sampling). A sample does
not depend on the order of loading or on the engine, and a smaller sample is a prefix of a larger one. When the graph
grows by one statement:

- "uniform" (smallest hash first) and "relation-stratified" (the first statement of every relation, then the second of
  every relation, ...) change a node's sample by at most one statement, and only the new statement can be added;
- "inverse-hub" does the same as long as no in-degree passes a power of two. Under this policy, the chance of a
  statement halves with every doubling of the in-degree of the node it leads to (exponential keys, Efraimidis and
  Spirakis 2006). If an in-degree passes a power of two, each statement that leads to this node may drop out.

With direction="both", a node that becomes a hub loses all its incoming statements at once.

A new policy needs a function in `ORDERS` and its name in `Policy`; the options, the command line and the provenance
take it from there.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from heapq import nsmallest
from math import log
from typing import Literal

from wikidata_cache.ids import Statement

Policy = Literal["uniform", "relation-stratified", "inverse-hub"]
"""How the statements of a node are sampled; docs/wikidata.md describes each policy."""
Priorities = Mapping[Statement, bytes]
"""{statement: its priority}."""
Rank = Callable[[Statement], float]
"""The result of a policy: the rank of a statement. Lower ranks are kept first; of equal ranks, smaller priorities."""


def priority(statement: Statement, *, seed: int) -> bytes:
    """Return the sampling priority of a statement under a seed: 16 bytes, uniformly distributed over statements."""
    text = "|".join((str(seed), *statement))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def bottom_m(statements: Iterable[Statement], m: int, *, seed: int) -> list[Statement]:
    """Return the m distinct statements of smallest priority (all, if there are fewer than m), smallest first."""
    return sample(statements, m, node="", seed=seed, policy="uniform", degrees={})


def sample(
    statements: Iterable[Statement], m: int, *, node: str, seed: int, policy: Policy, degrees: Mapping[str, int]
) -> list[Statement]:
    """Return at most m distinct statements of `node`, in the order of the policy (see the top of this file).

    `degrees` has the in-degree of each node that the statements lead to; only "inverse-hub" uses it.
    """
    # Bottom-m: the m smallest of independent uniform keys are a uniform sample without replacement.
    priorities = {statement: priority(statement, seed=seed) for statement in statements}
    make_rank = ORDERS[policy]
    rank = make_rank(priorities, node, degrees)
    return nsmallest(m, priorities, key=lambda statement: (rank(statement), priorities[statement]))


def other_end(statement: Statement, node: str) -> str:
    """Return the other end of a statement of `node`: the object if `node` is the subject, else the subject."""
    if statement.subject == node:
        return statement.object
    return statement.subject


def _make_uniform_rank(priorities: Priorities, node: str, degrees: Mapping[str, int]) -> Rank:
    """Return the rank 0 for all statements, so that the priorities alone decide."""

    def rank(statement: Statement) -> float:
        return 0

    return rank


def _make_rank_in_relation(priorities: Priorities, node: str, degrees: Mapping[str, int]) -> Rank:
    """Return the rank of a statement among those of its relation and direction: 0 for the smallest priority, then 1."""
    seen: Counter[tuple[str, bool]] = Counter()
    ranks = {}
    for statement in sorted(priorities, key=priorities.__getitem__):
        stratum = (statement.property, statement.subject == node)
        ranks[statement] = seen[stratum]
        seen[stratum] += 1
    return ranks.__getitem__


def _make_rank_by_degree(priorities: Priorities, node: str, degrees: Mapping[str, int]) -> Rank:
    """Return a random rank that is mostly smaller where the other end has a smaller in-degree."""

    def rank(statement: Statement) -> float:
        # x = -ln(u) 2^b is an exponential variable of rate 1 / 2^b, with u in (0, 1] from the first 64 bits of the
        # priority, and b the bit length of the in-degree. Keeping the smallest x samples with weights 1 / 2^b.
        u = (int.from_bytes(priorities[statement][:8], "big") + 1) / 2**64
        b = degrees[other_end(statement, node)].bit_length()
        return -log(u) * 2.0**b

    return rank


ORDERS: Mapping[Policy, Callable[[Priorities, str, Mapping[str, int]], Rank]] = {
    "uniform": _make_uniform_rank,
    "relation-stratified": _make_rank_in_relation,
    "inverse-hub": _make_rank_by_degree,
}
"""Functions of the policies: ({statement of a node: its priority}, the node, {other end: its in-degree}) -> `Rank`."""
