"""A walk as text: its statements as sentences before the question, after examples of the same form.

    …                                                                  the prompt's own examples, if it has any
    The country of Belmora is Kelvany. The capital of Kelvany is Tarsk.   an example: facts, question, answer
    Question: What is the capital of the country of Belmora?
    Answer: Tarsk

    The country of s is o*. The capital of o* is o'.                   the chain
    Question: What is the capital of the country of s?                 the last paragraph of the prompt
    Answer:

An example is the chain and the question themselves with made-up names. So it has their form, whatever it is, and its
answer can't be known but from its facts. Without one, a small model answers from what it knows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kg_edit.methods.graph_memory.edited_graph import Entity, Statement

# Made-up names; the i-th one stands for the i-th thing of the chain.
_MADE_UP = (
    ("Belmora", "Kelvany", "Tarsk", "Ordune", "Vissel", "Chamry"),
    ("Quillon", "Marbeck", "Oulven", "Drasna", "Perrow", "Tindle"),
    ("Sendrick", "Halvor", "Zimbra", "Castane", "Lurien", "Wexmoor"),
)
MOST_EXAMPLES = len(_MADE_UP)


@dataclass(frozen=True)
class Paragraphs:
    """A prompt in two parts: what is ``before`` its last paragraph (examples, or nothing), and the ``last`` one."""

    before: str
    last: str

    @classmethod
    def of(cls, prompt: str) -> Paragraphs:
        """Split a prompt at its last empty line; white space at its end stays."""
        body = prompt.rstrip()
        before, gap, _ = body.rpartition("\n\n")
        start = len(before) + len(gap)
        return cls(before=prompt[:start], last=prompt[start:])


def chain_of(statements: Sequence[Statement]) -> str:
    """Return the sentences of a walk on one line."""
    return " ".join(statement.sentence for statement in statements)


def prompt_with(prompt: str, statements: Sequence[Statement], *, examples: int) -> str:
    """Return a prompt with examples and a chain before its last paragraph; what is before that stays as it is."""
    parts = Paragraphs.of(prompt)
    shown = "".join(f"{example}\n\n" for example in _examples(parts.last, statements)[:examples])
    return f"{parts.before}{shown}{chain_of(statements)}\n{parts.last}"


def _examples(paragraph: str, statements: Sequence[Statement]) -> list[str]:
    """The chain and the paragraph with made-up names; none if the paragraph has the first thing by another name."""
    named = _name_in(paragraph, statements[0].subject)
    if named is None:
        return []
    examples = []
    for names in _MADE_UP:
        things = {statements[0].subject.key: names[0]}
        facts = []
        for statement, name in zip(statements, names[1:], strict=False):
            start = things[statement.subject.key]
            end = things.setdefault(statement.object.key, name)
            facts.append(statement.worded(start, end))
        answer = things[statements[-1].object.key]
        asked = paragraph.rstrip().replace(named, names[0])
        examples.append(f"{' '.join(facts)}\n{asked} {answer}")
    return examples


def _name_in(text: str, thing: Entity) -> str | None:
    """The name of a thing as a text has it, the longest first."""
    for name in sorted(thing.names, key=len, reverse=True):
        if found := re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE):
            return found[0]
    return None
