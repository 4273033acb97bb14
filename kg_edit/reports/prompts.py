"""The prompts by which an edit's side effects are seen: those of a file, of edits, and the packaged unrelated ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from kg_common.errors import EditRowError
from kg_common.rows import RowFault, entries, raw_rows
from kg_edit.edits.edit import Edit, Language, Name, Record, Text, parse_record
from kg_edit.edits.files import unit_of
from kg_edit.edits.templates import RelationTemplate, RelationTemplates, utf8_text
from kg_edit.errors import EditError, EditFileError, Fault, describe, first_faults
from kg_edit.languages import ENGLISH, FORM_LANGUAGES, fill, forms_of, named_facts, packaged_rows
from kg_edit.scoring.requests import Requests, continue_and_score
from kg_edit.text.matching import mentions

_ARTICLE_TWICE = re.compile(r"\b(an?|the) (?:an?|the)\b", re.IGNORECASE)
RELATED = 10  # prompts about the edits' relations, at most
Source = Literal["edit", "relation", "unrelated", "file"]
_ROWS = (".jsonl", ".json", ".csv")
_HEADER = ["prompt", "answer"]
_FORM = 'expected a prompt in each row, such as {"prompt": "The capital of Italy is", "answer": "Rome"}'


def _as_tuple(value: object) -> object:
    """Return a text as a tuple of one; anything else as it is."""
    if isinstance(value, str):
        return (value,)
    return value


class AskedPrompt(Record):
    """A prompt that both models are asked; a prompt with ``chat`` is a user's turn."""

    prompt: Text = Field(description="the text to continue")
    answer: Annotated[tuple[Name, ...], BeforeValidator(_as_tuple), Field(strict=False)] = Field(
        (), description="the answer, or a list of answers, whose probabilities are measured"
    )
    chat: bool = Field(False, description="whether it is asked in chat form")
    source: Source = Field("file", description="a file of prompts, a field of an edit, an edit's relation, or neither")
    edit: str = Field("", description="the id of the edit of whose field locality it is")
    language: Language = Field(
        ENGLISH, description="the language it is written in", exclude_if=lambda code: code == ENGLISH
    )

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
                raise EditError([Fault(row.field, row.message)])
            if not isinstance(row, dict):
                raise EditError([Fault("", f"found {describe(row)}; {_FORM}")])
            if "target_new" in row:
                raise EditError([Fault("", f"is an edit; {_FORM}")])
            prompts.append(parse_record(AskedPrompt, row))
        except EditError as error:
            faults += [f"{path}, {unit_of(path)} {number}, {fault}" for fault in error.faults]
    if faults:
        raise EditFileError(first_faults(faults))
    if not prompts:
        raise EditFileError(f"{path}: has no prompts; expected one on each line")
    return tuple(prompts)


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number and the content of each row of a file of any format, as the next two functions do."""
    if path.suffix.lower() in _ROWS:
        yield from _rows_of_records(path)
    else:
        yield from _rows_of_text(path)


def _rows_of_text(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the fields of each line that is not blank: "The capital of Italy is<tab>Rome"."""
    for number, line in enumerate(utf8_text(path).split("\n"), 1):
        cells = line.rstrip("\r").split("\t")
        is_header = number == 1 and cells == _HEADER
        if line.strip() and not is_header:
            yield number, {"prompt": cells[0], "answer": [name for name in cells[1:] if name.strip()]}


def _rows_of_records(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number and the content of each row of a .jsonl, .json or .csv file.

    The content is a dict of the fields, a `RowFault` for a row that can't be read, or what else a JSON file may have in
    the place of a record, such as a number. A text is a prompt, and becomes {"prompt": text}.
    """
    try:
        rows = raw_rows(path, expected="a file of prompts", header_fault=_header_fault)
    except EditRowError as error:
        raise EditFileError(str(error)) from None
    for row in rows:
        value: Any = row.value
        if isinstance(value, str):
            value = {"prompt": value}
        if isinstance(value, dict):  # a null field counts as absent, as in a file of edits
            value = {name: field for name, field in value.items() if field is not None}
            if path.suffix.lower() == ".csv" and "answer" in value:
                value["answer"] = entries(value["answer"])
        yield row.line, value


def _header_fault(header: Sequence[str]) -> str | None:
    """Return what is wrong with the header of a CSV file; None if nothing is."""
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

    The neighborhood prompts of an edit without an old object are here too: the old object is their answer, so without
    it they are not probes of the report.
    """
    prompts = []
    for edit in edits:
        chat = edit.asks_in_chat
        for row in edit.locality:
            prompts.append(
                AskedPrompt(
                    prompt=row.prompt,
                    answer=row.names,
                    chat=chat,
                    source="edit",
                    edit=edit.id,
                    language=edit.language,
                )
            )
        if not edit.target_true:
            for neighbour in edit.neighborhood:
                prompts.append(
                    AskedPrompt(prompt=neighbour, chat=chat, source="edit", edit=edit.id, language=edit.language)
                )
    return tuple(prompts)


def join_repeats(prompts: Iterable[AskedPrompt]) -> tuple[AskedPrompt, ...]:
    """Return each prompt once, where it comes first, with the answers of all its repeats."""
    by_text: dict[tuple[str, bool], AskedPrompt] = {}
    for prompt in prompts:
        key = (prompt.text, prompt.chat)
        first = by_text.setdefault(key, prompt)
        answers = dict.fromkeys((*first.answer, *prompt.answer))
        by_text[key] = first.model_copy(update={"answer": tuple(answers)})
    return tuple(by_text.values())


def packaged_prompts(*, chat: bool = False, language: str = ENGLISH) -> tuple[AskedPrompt, ...]:
    """Return the packaged prompts about many things, each with its answer: twenty in English, twelve in others.

    A language without such prompts gets the English ones.
    """
    prompts = list[AskedPrompt]()
    for code, prompt, answer in _unrelated_rows(language):
        prompts.append(AskedPrompt(prompt=prompt, answer=(answer,), chat=chat, source="unrelated", language=code))
    return tuple(prompts)


def _unrelated_rows(language: str) -> list[list[str]]:
    """Return (language, prompt, answer) of each packaged prompt of a language, or of English if it has none."""
    if language == ENGLISH or language not in FORM_LANGUAGES:
        return [[ENGLISH, *row] for row in packaged_rows("unrelated_prompts.tsv")]
    return [row for row in packaged_rows("unrelated_prompts_languages.tsv") if row[0] == language]


def unrelated_prompts(edits: Sequence[Edit]) -> tuple[AskedPrompt, ...]:
    """Return the packaged prompts, and up to ten about other subjects with the relations of the edits.

    Both are in the languages of the edits, and asked in the form of the first edit. A prompt that mentions the subject
    of an edit is left out, because it may be about the edited fact. A neighborhood prompt of an edit with an old object
    is left out too, because the report has it already as a probe; those of other edits are among `own_prompts`.
    """
    chat = edits[0].asks_in_chat
    subjects = {edit.subject for edit in edits}
    asked_anyway = set[str]()
    for edit in edits:
        if edit.target_true:
            asked_anyway.update(prompt.rstrip() for prompt in edit.neighborhood)

    def is_unrelated(prompt: AskedPrompt) -> bool:
        return prompt.text not in asked_anyway and not any(mentions(prompt.prompt, name) for name in subjects)

    packaged = list[AskedPrompt]()
    for language in dict.fromkeys(edit.language for edit in edits):
        packaged += [prompt for prompt in packaged_prompts(chat=chat, language=language) if is_unrelated(prompt)]
    related = list[AskedPrompt]()
    # Of several relations, one prompt of each comes first, then a second one of each. None: a relation has no more.
    for prompts in zip_longest(*_ask_relations(edits, chat=chat).values()):
        related += [prompt for prompt in prompts if prompt is not None and is_unrelated(prompt)]
    return (*packaged, *related[:RELATED])


def _ask_relations(edits: Iterable[Edit], *, chat: bool) -> dict[tuple[str, str], list[AskedPrompt]]:
    """Return prompts about well-known things for each relation of the edits, by language and relation.

    In English the prompts have the words of the first edit of the relation, and in other languages those of a packaged
    form. The edit "{} is the capital of" of Paris gives "Rome is the capital of", with the answer Italy.

    An English prompt without a place for the subject can't be asked about another thing, so it gives none.
    """
    templates = RelationTemplates.load()
    by_template = {row.template: row for row in templates.english_by_name.values()}
    facts = related_facts()
    related: dict[tuple[str, str], list[AskedPrompt]] = {}  # by language and relation
    for edit in edits:
        relation = _find_relation(edit, templates, by_template)
        key = (edit.language, relation)
        if key in related:
            continue
        if edit.language != ENGLISH:
            related[key] = _ask_in_language(edit.language, relation, chat=chat)
        elif relation in facts and "{}" in edit.prompt:
            related[key] = _ask_in_english(edit.prompt, facts[relation], chat=chat)
    return related


def _ask_in_english(template: str, facts: Iterable[tuple[str, str]], *, chat: bool) -> list[AskedPrompt]:
    """Return the prompt of an edit about the thing of each fact (thing, object), with the object as its answer."""
    prompts = []
    for thing, name in facts:
        text = _about(thing, template)
        prompts.append(AskedPrompt(prompt=text, answer=(name,), chat=chat, source="relation"))
    return prompts


def _find_relation(edit: Edit, templates: RelationTemplates, by_template: Mapping[str, RelationTemplate]) -> str:
    """Return the id of an edit's relation; "" if it is not known.

    That of an English edit without the id is found by the label of its relation, or by its prompt, which may be a
    packaged template.
    """
    if edit.relation_id:
        return edit.relation_id
    if edit.language != ENGLISH:
        return ""
    row = templates.find(edit.relation) or by_template.get(edit.prompt)
    if row is None:
        return ""
    return row.property_id or ""


def _ask_in_language(language: str, relation: str, *, chat: bool) -> list[AskedPrompt]:
    """Return prompts of a relation in another language than English about well-known things, with their answers.

    They have the words of the packaged form of the relation; a relation without such a form has none.
    """
    forms = forms_of(language).get(relation)
    if forms is None:
        return []
    answers: dict[str, list[str]] = {}  # a thing's objects
    for property_id, thing, name in named_facts(language):
        if property_id == relation:
            answers.setdefault(thing, []).append(name)
    prompts = []
    for thing, names in answers.items():
        text = fill(forms.template, thing, language)
        prompts.append(AskedPrompt(prompt=text, answer=tuple(names), chat=chat, source="relation", language=language))
    return prompts


def related_facts() -> dict[str, list[tuple[str, str]]]:
    """Return the packaged facts, ten things with their objects of each relation, by the relation's id."""
    facts: dict[str, list[tuple[str, str]]] = {}
    for relation, thing, name in packaged_rows("related_facts.tsv"):
        facts.setdefault(relation, []).append((thing, name))
    return facts


def _about(thing: str, template: str) -> str:
    """Return a prompt about a thing, with one article and a capital letter at the start."""
    text = _ARTICLE_TWICE.sub(r"\1", template.replace("{}", thing))
    return text[:1].upper() + text[1:]
