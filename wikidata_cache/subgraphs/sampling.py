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
Keyed = Mapping[Statement, bytes]
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
    keyed = {statement: priority(statement, seed=seed) for statement in statements}
    rank = ORDERS[policy](keyed, node, degrees)
    return nsmallest(m, keyed, key=lambda statement: (rank(statement), keyed[statement]))


def other_end(statement: Statement, node: str) -> str:
    """Return the other end of a statement of `node`: the object if `node` is the subject, else the subject."""
    return statement.object if statement.subject == node else statement.subject


def _uniform(keyed: Keyed, node: str, degrees: Mapping[str, int]) -> Rank:
    def rank(statement: Statement) -> float:
        return 0

    return rank


def _relation_stratified(keyed: Keyed, node: str, degrees: Mapping[str, int]) -> Rank:
    # The rank is the number of statements of the same relation and direction that come before by priority.
    seen: Counter[tuple[str, bool]] = Counter()
    ranks = {}
    for statement in sorted(keyed, key=keyed.__getitem__):
        stratum = (statement.property, statement.subject == node)
        ranks[statement] = seen[stratum]
        seen[stratum] += 1
    return ranks.__getitem__


def _inverse_hub(keyed: Keyed, node: str, degrees: Mapping[str, int]) -> Rank:
    def rank(statement: Statement) -> float:
        # An exponential variable of rate 1 / 2^b: -ln(u) 2^b, with u in (0, 1] from the priority, and b the bit length
        # of the in-degree. Keeping the smallest ones samples with weights 1 / 2^b.
        uniform = (int.from_bytes(keyed[statement][:8], "big") + 1) / 2**64
        return -log(uniform) * 2.0 ** degrees[other_end(statement, node)].bit_length()

    return rank


ORDERS: Mapping[Policy, Callable[[Keyed, str, Mapping[str, int]], Rank]] = {
    "uniform": _uniform,
    "relation-stratified": _relation_stratified,
    "inverse-hub": _inverse_hub,
}
"""Each policy as a function of ({statement of a node: its priority}, the node, {other end: its in-degree})."""
