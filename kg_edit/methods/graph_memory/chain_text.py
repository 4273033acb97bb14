"""A walk as text: its statements as sentences before the question, after examples of the same form.

    …                                                                  the prompt's own examples, if it has any
    The country of Belmora is Kelvany. The capital of Kelvany is Tarsk.   an example: facts, question, answer
    Question: What is the capital of the country of Belmora?
    Answer: Tarsk

    The country of s is o*. The capital of o* is o'.                   the chain
    Question: What is the capital of the country of s?                 the last paragraph of the prompt
    Answer:

An example is the same chain and the same question with made-up names. So it has their form, whatever that is, and only
its facts can give its answer. Without an example, a small model answers from what it knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kg_edit.languages import replace_name
from kg_edit.methods.graph_memory.edited_graph import Entity, Statement
from kg_edit.text.fact_words import fact_words
from kg_edit.writing_systems import join, whole

MOST_EXAMPLES = 3  # rows of made-up names in each language
MOST_HOPS = 5  # a row has names for the things of so many hops


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


def end_of_examples(text: str, languages: Iterable[str]) -> int:
    """Return where the last paragraph of a prompt begins, if examples are before it; 0 if there are none.

    Examples in one of ``languages`` are recognised by the first name of a row of made-up names, anywhere before the
    last paragraph: "Belmora" in the module's example.
    """
    before = Paragraphs.of(text).before
    for language in languages:
        if any(made_up[0] in before for made_up in fact_words(language).made_up):
            return len(before)
    return 0


def write_chain(statements: Sequence[Statement]) -> str:
    """Return the sentences of a walk on one line; the walk has at least one statement."""
    return _join_sentences([statement.sentence for statement in statements], statements[0].language)


def _join_sentences(sentences: Sequence[str], language: str) -> str:
    """Return sentences on one line; in Chinese and Japanese there is nothing between them."""
    return fact_words(language).gap.join(sentences)


def put_chain_before(prompt: str, statements: Sequence[Statement], *, examples: int) -> str:
    """Return a prompt with examples and a chain before its last paragraph; what is before that stays as it is."""
    parts = Paragraphs.of(prompt)
    shown = ""
    for example in _write_examples(parts.last, statements)[:examples]:
        shown += f"{example}\n\n"
    return f"{parts.before}{shown}{write_chain(statements)}\n{parts.last}"


def _write_examples(paragraph: str, statements: Sequence[Statement]) -> list[str]:
    """Return the chain and the paragraph with made-up names, once for each row of `FactWords.made_up`.

    There are none if the paragraph does not contain a name of the first thing, which could be replaced, nor if the
    question is about several things, whose walks together do not say what the answer is.
    """
    for before, statement in pairwise(statements):
        if statement.subject.key != before.object.key:  # the walk from another thing begins
            return []
    first = statements[0].subject
    language = statements[0].language
    first_name = _find_name(paragraph, first)
    if first_name is None:
        return []
    # The things of the chain, each once
    things = dict.fromkeys([first.key, *(statement.object.key for statement in statements)])
    examples = []
    for made_up in fact_words(language).made_up:
        names = dict(zip(things, made_up, strict=False))  # the made-up name of each thing; some may be left
        sentences = []
        for statement in statements:
            sentences.append(statement.say(names[statement.subject.key], names[statement.object.key]))
        answer = names[statements[-1].object.key]
        question = replace_name(paragraph.rstrip(), first_name, made_up[0], language)
        examples.append(f"{_join_sentences(sentences, language)}\n{join(question, answer)}")
    return examples


def _find_name(text: str, thing: Entity) -> str | None:
    """Return the longest name of a thing that is in a text, as the text spells it; None if there is none."""
    for name in sorted(thing.names, key=len, reverse=True):
        found = re.search(whole(name, text), text, re.IGNORECASE)
        if found:
            return found[0]
    return None
