"""The prompts by which an edit's side effects are seen: those of a file, of edits, and the packaged unrelated ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from itertools import chain, zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from kg_common.errors import EditRowError
from kg_common.rows import RowFault, entries, raw_rows
from kg_edit.edits.edit import Edit, LocalityPrompt, Name, Record, Text, checked
from kg_edit.edits.files import unit_of
from kg_edit.edits.templates import RelationTemplates, utf8_text
from kg_edit.errors import EditError, EditFileError, Fault, describe, first_faults
from kg_edit.scoring.requests import Requests, continue_and_score
from kg_edit.text.matching import mentions

_ARTICLE_TWICE = re.compile(r"\b(an?|the) (?:an?|the)\b", re.IGNORECASE)
RELATED = 10  # prompts about the edits' relations, at most
Source = Literal["edit", "relation", "unrelated", "file"]
_ROWS = (".jsonl", ".json", ".csv")
_HEADER = ("prompt", ["answer"])
_FORM = 'expected a prompt in each row, such as {"prompt": "The capital of Italy is", "answer": "Rome"}'


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class AskedPrompt(Record):
    """A prompt that both models are asked; a prompt with ``chat`` is a user's turn."""

    prompt: Text = Field(description="the text to continue")
    answer: Annotated[tuple[Name, ...], BeforeValidator(_several), Field(strict=False)] = Field(
        (), description="the answer, or a list of answers, whose probabilities are measured"
    )
    chat: bool = Field(False, description="whether it is asked in chat form")
    source: Source = Field("file", description="a file of prompts, a field of an edit, an edit's relation, or neither")
    edit: str = Field("", description="the id of the edit of whose field locality it is")

    @property
    def text(self) -> str:
        """The prompt without white space at its end, which would change the tokens of an answer."""
        return self.prompt.rstrip()

    def requests(self, *, tokens: int) -> Requests:
        """Return what a model is asked: a continuation of ``tokens`` tokens, and the likelihood of each answer."""
        return continue_and_score(self.text, self.answer, least=tokens, chat=self.chat)


def read_prompts(path: Path | str) -> tuple[AskedPrompt, ...]:
    """Read a file of prompts, in the file's order.

    A .jsonl, .json or .csv file has rows with ``prompt`` and ``answer`` (optional; in CSV, " | " separates several).
    Any other file has a prompt on each line, with answers after tabs; its first line may be the header prompt, answer.
    """
    path = Path(path)
    prompts: list[AskedPrompt] = []
    faults: list[str] = []
    for number, row in _rows(path):
        try:
            if isinstance(row, RowFault):
                raise EditError([Fault(*row)])
            if not isinstance(row, dict):
                raise EditError([Fault("", f"found {describe(row)}; {_FORM}")])
            if "target_new" in row:
                raise EditError([Fault("", f"is an edit; {_FORM}")])
            prompts.append(checked(AskedPrompt, row))
        except EditError as error:
            faults += [f"{path}, {unit_of(path)} {number}, {fault}" for fault in error.faults]
    if faults:
        raise EditFileError(first_faults(faults))
    if not prompts:
        raise EditFileError(f"{path}: has no prompts; expected one on each line")
    return tuple(prompts)


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number and the fields of each row that is not blank."""
    suffix = path.suffix.lower()
    if suffix not in _ROWS:
        for number, line in enumerate(utf8_text(path).split("\n"), 1):
            prompt, *answers = line.rstrip("\r").split("\t")
            if line.strip() and (number, prompt, answers) != (1, *_HEADER):
                yield number, {"prompt": prompt, "answer": [name for name in answers if name.strip()]}
        return
    try:
        rows = raw_rows(path, expected="a file of prompts", header_fault=_header_fault)
    except EditRowError as error:
        raise EditFileError(str(error)) from None
    for row in rows:
        value: Any = {"prompt": row.value} if isinstance(row.value, str) else row.value
        if isinstance(value, dict):  # a null field counts as absent, as in a file of edits
            value = {name: field for name, field in value.items() if field is not None}
        if suffix == ".csv" and isinstance(value, dict) and "answer" in value:
            value = {**value, "answer": entries(value["answer"])}
        yield row.line, value


def _header_fault(header: Sequence[str]) -> str | None:
    if "target_new" in header:
        return f"has the columns of edits; {_FORM}"
    for name in header:
        if name not in ("prompt", "answer"):
            return f"unknown column {name!r}; known: prompt, answer"
    if "prompt" not in header:
        return "lacks the column 'prompt'"
    return None


def own_prompts(edits: Iterable[Edit]) -> tuple[AskedPrompt, ...]:
    """Return the prompts of the field ``locality`` of edits, each in the form in which its edit is asked.

    Neighborhood prompts without the old object, which is their answer, are no probes of the report: they are here too.
    """
    prompts = []
    for edit in edits:
        near = () if edit.target_true else (LocalityPrompt(prompt=prompt) for prompt in edit.neighborhood)
        for row in (*edit.locality, *near):
            chat = edit.forms[0]
            prompts.append(AskedPrompt(prompt=row.prompt, answer=row.names, chat=chat, source="edit", edit=edit.id))
    return tuple(prompts)


def asked_once(prompts: Iterable[AskedPrompt]) -> tuple[AskedPrompt, ...]:
    """Return each prompt once, where it comes first; one that is given again adds its answers."""
    by_text: dict[tuple[str, bool], AskedPrompt] = {}
    for prompt in prompts:
        key = prompt.text, prompt.chat
        first = by_text.setdefault(key, prompt)
        answers = dict.fromkeys((*first.answer, *prompt.answer))
        by_text[key] = first.model_copy(update={"answer": tuple(answers)})
    return tuple(by_text.values())


def packaged_prompts(*, chat: bool = False) -> tuple[AskedPrompt, ...]:
    """Return the twenty packaged prompts about many things, each with its answer."""
    return tuple(
        AskedPrompt(prompt=prompt, answer=(answer,), chat=chat, source="unrelated")
        for prompt, answer in _packaged_rows("unrelated_prompts.tsv")
    )


def unrelated_prompts(edits: Sequence[Edit]) -> tuple[AskedPrompt, ...]:
    """Return the packaged prompts, and up to ten about other subjects with the relations of the edits.

    They are asked in the form of the first edit. A prompt that mentions the subject of an edit is left out, because it
    may be about the edited fact; and one that is a neighborhood prompt of an edit, because the report has it already.
    """
    chat = edits[0].forms[0]
    subjects = {edit.subject for edit in edits}
    near = set[str]()  # the neighborhood prompts that the report asks anyway
    for edit in edits:
        if edit.target_true:
            near.update(prompt.rstrip() for prompt in edit.neighborhood)
    # Of several relations, one prompt of each comes first, then a second one of each
    by_relation = zip_longest(*_related(edits, chat=chat).values())
    related = [prompt for prompt in chain.from_iterable(by_relation) if prompt and prompt.text not in near]
    related = [prompt for prompt in related if not _mentions_any(prompt, subjects)]
    packaged = [prompt for prompt in packaged_prompts(chat=chat) if prompt.text not in near]
    packaged = [prompt for prompt in packaged if not _mentions_any(prompt, subjects)]
    return (*packaged, *related[:RELATED])


def _mentions_any(prompt: AskedPrompt, names: Iterable[str]) -> bool:
    return any(mentions(prompt.prompt, name) for name in names)


def _related(edits: Iterable[Edit], *, chat: bool) -> dict[str, list[AskedPrompt]]:
    """Return for each relation of the edits its prompt about ten well-known things that fit the relation.

    A relation is known by its id, by its label, or if the edit's prompt is a packaged template. A prompt without a
    place for the subject can't be asked about another thing.
    """
    templates = RelationTemplates.load()
    facts = related_facts()
    by_template = {row.template: row for row in templates.by_name.values()}
    related: dict[str, list[AskedPrompt]] = {}
    for edit in edits:
        row = templates.find(edit.relation_id) or templates.find(edit.relation) or by_template.get(edit.prompt)
        relation = edit.relation_id or (row.property_id if row else "")
        if relation in facts and relation not in related and "{}" in edit.prompt:
            related[relation] = [
                AskedPrompt(prompt=_about(thing, edit.prompt), answer=(name,), chat=chat, source="relation")
                for thing, name in facts[relation]
            ]
    return related


def related_facts() -> dict[str, list[tuple[str, str]]]:
    """Return the packaged facts, ten things with their objects of each relation, by the relation's id."""
    facts: dict[str, list[tuple[str, str]]] = {}
    for relation, thing, name in _packaged_rows("related_facts.tsv"):
        facts.setdefault(relation, []).append((thing, name))
    return facts


def _about(thing: str, template: str) -> str:
    """Return a prompt about a thing, with one article and a capital letter at the start."""
    text = _ARTICLE_TWICE.sub(r"\1", template.replace("{}", thing))
    return text[:1].upper() + text[1:]


def _packaged_rows(name: str) -> list[list[str]]:
    text = (files("kg_edit") / "data" / name).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines() if not line.startswith("#")][1:]
