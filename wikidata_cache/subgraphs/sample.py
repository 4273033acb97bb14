"""Sampling that any machine repeats: keep the m statements with the smallest hash.

A statement's priority is blake2b of seed, subject, property and object. So a sample depends on neither the
order of loading nor the engine, a smaller sample is a prefix of a larger one, and adding a statement to the
graph changes a node's sample by at most one statement.
"""

import hashlib
from collections.abc import Iterable
from heapq import nsmallest

from wikidata_cache.ids import Statement


def priority(statement: Statement, *, seed: int) -> bytes:
    """The sampling order of a statement under a seed: 16 bytes, uniform over statements."""
    text = "|".join((str(seed), *statement))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def bottom_m(statements: Iterable[Statement], m: int, *, seed: int) -> list[Statement]:
    """The m distinct statements of smallest priority (all of them if there are fewer), smallest first."""
    return nsmallest(m, set(statements), key=lambda statement: priority(statement, seed=seed))
