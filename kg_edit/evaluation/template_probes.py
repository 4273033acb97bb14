"""Further probes that are made from an edit by templates, for the records of every data set.

`kg-edit evaluate --probes negation,distracting` asks them as well as the record's own prompts. They look for an edit
that only changed which words follow which: the new object after a negation too, or after another subject, or next to
the old object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord, Probe, Query
from kg_edit.errors import ConfigError, unknown_name
from kg_edit.languages import FORM_LANGUAGES
from kg_edit.scoring.questions import fact_sentence, new_fact
from kg_edit.text.fact_words import fact_words
from kg_edit.writing_systems import join

BLANK = "___"


def _negation(edit: Edit) -> Iterator[Query]:
    """Yield the prompt, negated; the old object is now right, and the new one wrong."""
    if edit.target_true:
        prompt = fact_words(edit.language).negation.replace("[fact]", edit.text)
        yield Query(prompt=prompt, answers=((edit.target_true,),), others=(edit.target_new,), form="sentence")


def _fact_check(edit: Edit) -> Iterator[Query]:
    """Yield the questions whether the new fact and the old one are true; a model that always says yes is half right."""
    if edit.target_true:
        words = fact_words(edit.language)
        old_edit = edit.model_copy(update={"target_new": edit.target_true})
        new = words.is_it_true.replace("[fact]", new_fact(edit))
        old = words.is_it_true.replace("[fact]", new_fact(old_edit))
        yield Query(prompt=new, answers=(words.yes,), others=words.no[:1])
        yield Query(prompt=old, answers=(words.no,), others=words.yes[:1])


def _distracting(edit: Edit) -> Iterator[Query]:
    """Yield each neighbour's prompt after the new fact, which is about another subject."""
    if edit.target_true:
        for prompt in edit.neighborhood:
            answers = ((edit.target_true,),)
            others = (edit.target_new,)
            yield Query(prompt=prompt, context=fact_sentence(edit), answers=answers, others=others, form="sentence")


def _reversed(edit: Edit) -> Iterator[Query]:
    """Yield the statement with a blank for the subject."""
    if "{}" in edit.prompt:
        statement = join(edit.prompt.replace("{}", BLANK), edit.target_new)
        question = fact_words(edit.language).missing.replace("[fact]", statement)
        yield Query(prompt=question, answers=((edit.subject,),))


def _elsewhere(edit: Edit) -> Iterator[Query]:
    """Yield each neighbour's prompt with the new object as its answer.

    An answer that counts as right is a failure of the edit: the new object appears where it should not be.
    """
    for prompt in edit.neighborhood:
        yield Query(prompt=prompt, answers=((edit.target_new,),), form="sentence")


def _refutation(edit: Edit) -> Iterator[Query]:
    """Yield the edit's prompt with the old object as its answer.

    An answer that counts as right is a failure of the edit: the text mentions the old object again.
    """
    if edit.target_true:
        yield Query(prompt=edit.text, answers=((edit.target_true,),), form="sentence")


def _conversation(edit: Edit) -> Iterator[Query]:
    """Yield the edit's prompt with both objects, for a conversation in which the model may go back to the old one."""
    if edit.target_true:
        old = (edit.target_true,)
        yield Query(prompt=edit.text, answers=((edit.target_new,),), old=old, form="sentence")


class Template(NamedTuple):
    """A template: the queries that it makes of an edit, and the fields without which it makes none."""

    make_queries: Callable[[Edit], Iterable[Query]]
    needs: tuple[str, ...]


PROBES: Mapping[str, Template] = {
    "negation": Template(_negation, needs=("target_true",)),
    "fact-check": Template(_fact_check, needs=("target_true",)),
    "distracting": Template(_distracting, needs=("neighborhood", "target_true")),
    "reversed": Template(_reversed, needs=("subject",)),
    "elsewhere": Template(_elsewhere, needs=("neighborhood",)),
    "refutation": Template(_refutation, needs=("target_true",)),
    "turns": Template(_conversation, needs=("target_true",)),
    "thinking": Template(_conversation, needs=("target_true",)),
}
"""The templates by the name of their group of probes."""


CONVERSATIONS = ("turns", "thinking")
"""The probes that are asked in the model's chat template, whatever the form of the others."""


def parse_probe_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the template probes that ``names`` name, each once and in the order of `PROBES`.

    A name may also be several names with commas between them.
    """
    requested = set[str]()
    for name in names:
        requested.update(part.strip() for part in name.split(",") if part.strip())
    for name in sorted(requested - PROBES.keys()):
        raise unknown_name("template probe", name, PROBES)
    return tuple(name for name in PROBES if name in requested)


def with_probes(record: BenchmarkRecord, names: Iterable[str]) -> BenchmarkRecord:
    """Return the record with a probe for each query that the templates ``names`` make of its edits.

    A record that brings questions of such a group itself keeps these alone.
    """
    names = tuple(names)
    languages = sorted({edit.language for edit in record.edits}.difference(FORM_LANGUAGES))
    if names and languages:
        raise ConfigError(
            f"template probes are in {', '.join(FORM_LANGUAGES)}, and {record.id} is in {', '.join(languages)}; leave "
            "out --probes"
        )
    probes = list(record.probes)
    for name in names:
        if record.group(name):
            continue
        for edit in record.edits:
            for query in PROBES[name].make_queries(edit):
                in_language = query.model_copy(update={"language": edit.language})
                probes.append(Probe(measures=name, queries=(in_language,)))
    return record.model_copy(update={"probes": tuple(probes)})
