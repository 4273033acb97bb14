"""What an edit takes besides products of matrices: calls of small operations, Python included.

A call is that of one small matrix product from Python, `kg_edit.planning.machine.call_seconds` (1.8 microseconds
measured). In a model of 100 M parameters and more these are a few hundredths of an edit, in a tiny one most of it.
The counts are measured in such calls, on models of four blocks of width 128.
"""

from __future__ import annotations

from collections.abc import Sequence

_FORWARD = 180  # a block's modules and operations: 192 of Llama's kind, 164 of GPT-2's
_BOTH_WAYS = 440  # there and back: 515 and 357
_PASS = 600  # a pass's masks, positions and hooks
_PROMPT = 130  # a prompt in tokens, with its subject found
_FACT_STEP = 150  # a fact's own share in a step: Adam, the clamp, its losses as numbers
_SETUP = 4  # passes through all blocks before the first step: prefixes, states, keys


def descent_calls(*, steps: int, rows: int, blocks: int, above: int, passes: float) -> float:
    """Calls of one fact's descent.

    ``rows`` prompts; a step in the blocks ``above`` the edited one, in so many ``passes`` (a share of one if many facts
    run together); the set-up in all ``blocks``.
    """
    own = rows * _PROMPT + steps * _FACT_STEP
    return own + passes * (steps * above * _BOTH_WAYS + _SETUP * (blocks * _FORWARD + _PASS))


def held_calls(layers: Sequence[int]) -> float:
    """Calls of the pass that finds the keys of a fact's other tokens, one up to each of ``layers``."""
    return float(sum((layer + 1) * _FORWARD + _PASS for layer in layers))
