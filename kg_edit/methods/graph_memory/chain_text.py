"""A walk as text: its statements as sentences before the question, after examples of the same form.

    The country of Tokyo is Japan. The currency of Japan is yen.       an example: facts, question, answer
    Question: What is the currency of the country of Tokyo?
    Answer: yen

    The country of s is o*. The currency of o* is o'.                  the chain
    Question: …                                                        the last paragraph of the prompt

Without examples a small model does not see what the facts before a question are for.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from kg_edit.methods.graph_memory.edited_graph import Statement
from kg_edit.text.matching import bare_question, normalised

# Paths of well-known things: a thing, then (noun, next thing). An example takes as many hops as the chain has.
_PATHS = (
    (
        "the PlayStation",
        ("manufacturer", "Sony"),
        ("headquarters", "Tokyo"),
        ("country", "Japan"),
        ("currency", "yen"),
    ),
    (
        "Hamlet",
        ("author", "William Shakespeare"),
        ("birthplace", "Stratford-upon-Avon"),
        ("country", "England"),
        ("capital", "London"),
    ),
    (
        "Guernica",
        ("creator", "Pablo Picasso"),
        ("home country", "Spain"),
        ("capital", "Madrid"),
        ("river", "Manzanares"),
    ),
    (
        "the Vatican Museums",
        ("surrounding region", "Rome"),
        ("country", "Italy"),
        ("continent", "Europe"),
        ("highest mountain", "Mount Elbrus"),
    ),
)


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


def sentence_of(statement: Statement) -> str:
    """Return a statement as a sentence: "The capital of Japan is Tokyo."; an edit without a noun in its own words."""
    relation = statement.relation
    if relation.noun is None and statement.sentence:
        return statement.sentence
    return relation.sentence(statement.subject.label, statement.object.label)


def chain_of(statements: Sequence[Statement]) -> str:
    """Return the sentences of a walk on one line."""
    return " ".join(map(sentence_of, statements))


def prompt_with(prompt: str, statements: Sequence[Statement], *, examples: int, first: bool = True) -> str:
    """Return a prompt with a chain before its last paragraph, and examples before all or right before the chain.

    Args:
        prompt: the prompt; what is before its last paragraph stays as it is.
        statements: the chain.
        examples: the number of examples.
        first: whether the examples are before the prompt's own ones; else they are between these and the chain.
    """
    parts = Paragraphs.of(prompt)
    question = bare_question(prompt)
    frame = _frame(parts.last, question)
    names = {name for statement in statements for name in (statement.subject.label, statement.object.label)}
    shown = "".join(
        f"{text}\n\n"
        for text in _examples(frame, asks=question.endswith("?"), hops=len(statements), names=names)[:examples]
    )
    lead = shown + parts.before if first else parts.before + shown
    return f"{lead}{chain_of(statements)}\n{parts.last}"


def _frame(paragraph: str, question: str) -> str:
    """The last paragraph with {} for its question: "Question: {}\\nAnswer:"; only {} if it has no frame."""
    parts: tuple[str, str, str] = paragraph.rstrip().rpartition(question)
    before, found, after = parts
    if not found or "\n" in before:
        return "{}"
    return f"{before.lstrip()}{{}}{after}"


def _examples(frame: str, *, asks: bool, hops: int, names: Collection[str]) -> list[str]:
    """Examples with ``hops`` facts; none is about one of ``names``."""
    taken = {normalised(name) for name in names}
    texts: list[str] = []
    for start, *steps in _PATHS:
        path = steps[:hops]
        things = [start, *(thing for _, thing in path)]
        if any(normalised(thing) in taken for thing in things):
            continue
        nouns = [noun for noun, _ in path]
        facts = " ".join(f"The {noun} of {thing} is {end}." for thing, (noun, end) in zip(things, path, strict=False))
        texts.append(f"{facts}\n{frame.replace('{}', _asked(start, nouns, asks=asks))} {things[-1]}")
    return texts


def _asked(start: str, nouns: Sequence[str], *, asks: bool) -> str:
    """The question of a path, or a sentence that its end continues."""
    *inner, last = nouns
    thing = "".join(f"the {noun} of " for noun in reversed(inner)) + start
    return f"What is the {last} of {thing}?" if asks else f"The {last} of {thing} is"
