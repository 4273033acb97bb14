"""Translate the field names that people and other tools write, EasyEdit above all, into the field names of `Edit`.

`ALIASES` lists the other names of a field. An EasyEdit row differs in two ways: its prompt has the subject's name
where ours has {}, and its ``locality`` and ``portability`` fields have named groups of prompts with their own answers;
a group's name becomes the ``category`` of each of its prompts.
`wikidata-cache link` adds ids to a row, and ``candidates`` where a person has to choose an id. That field is not used,
nor is ``cond`` of EasyEdit's zsRE.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeGuard

from kg_edit.errors import EditError, Fault, describe
from kg_edit.writing_systems import whole

Row = Mapping[str, object]

ALIASES = {
    "case_id": "id",
    "neighbours": "neighborhood",
    "neighbors": "neighborhood",
    "neighbourhood": "neighborhood",
    "neighborhood_prompts": "neighborhood",
    "questions": "portability",
    "rephrase_prompt": "paraphrases",
    "rephrase_prompts": "paraphrases",
    "rephrase": "paraphrases",
    "paraphrase": "paraphrases",
    "paraphrase_prompts": "paraphrases",
    "ground_truth": "target_true",
}
_NEIGHBORHOOD = {"neighborhood", *(name for name, field in ALIASES.items() if field == "neighborhood")}
TRIPLET_IDS = {"target_new_id": "new_object_id", "target_true_id": "object_id"}
LISTS = ("paraphrases", "neighborhood")
# `wikidata-cache link` writes the first where no candidate clearly leads; EasyEdit's zsRE has the fact in the second.
_UNUSED = ("candidates", "cond")
LOCALITY = ("locality_prompt", "locality_ground_truth")
ANSWERS = "locality_answer"  # the column with the answers of the column locality
_EASY_EDIT = {"ground_truth", "rephrase_prompt", "rephrase_prompts", "locality", *LOCALITY}


class _Answered(NamedTuple):
    """A prompt of EasyEdit with the names of its right answer; ``category`` is the name of its group, or ""."""

    category: str
    prompt: object
    names: list[object]


def rename_fields(row: Row, *, triplet: bool) -> tuple[dict[str, object], dict[str, str]]:
    """Rename the row's fields to those of `Edit` (or of a triplet).

    Args:
        row: a row of any shape. In a CounterFact record nothing is renamed; only unused fields are removed.
        triplet: whether the row is a triplet.

    Returns:
        The renamed row, and a map from the new field names to the row's own names.
    """
    row_fields = {name: value for name, value in row.items() if name not in _UNUSED}
    if "requested_rewrite" in row:
        return row_fields, {}
    aliases = dict(ALIASES)
    if triplet:
        aliases |= TRIPLET_IDS
        aliases["ground_truth"] = "object"

    fields: dict[str, object] = {}
    own_names: dict[str, str] = {}  # by the new name
    for name, value in row_fields.items():
        field = aliases.get(name, name)
        if field in fields:
            other = own_names[field]
            raise EditError([Fault(name, f"is the same field as {other!r}, which the row has too; keep one of them")])
        if field in LISTS and isinstance(value, str):
            value = [value]
        fields[field] = value
        own_names[field] = name

    if not triplet:
        fields = _from_easy_edit(fields, row_fields)
    old_object = fields.get("object") if triplet else fields.get("target_true")
    renamed = {field: own_name for field, own_name in own_names.items() if own_name != field}
    return _with_locality(fields, old=old_object), renamed


def _from_easy_edit(fields: dict[str, object], row: Row) -> dict[str, object]:
    """Turn the fields of an EasyEdit row into those of an `Edit`; leave other rows unchanged."""
    if row.keys().isdisjoint(_EASY_EDIT) and not isinstance(fields.get("portability"), Mapping):
        return fields
    result = dict(fields)
    # Their prompt has the subject's name. If it occurs exactly once, as a whole word, it becomes our {}.
    prompt = result.get("prompt")
    subject = result.get("subject")
    if isinstance(prompt, str) and isinstance(subject, str) and subject.strip() and "{}" not in prompt:
        parts = re.split(whole(subject.strip(), prompt), prompt)
        if len(parts) == 2:
            result["prompt"] = "{}".join(parts)
    old = result.get("target_true")
    if isinstance(old, list) and old:
        result["target_true"] = old[0]
    groups = result.get("portability")
    if isinstance(groups, Mapping):
        questions = []
        for category, text, names in _questions_in(groups, "portability"):
            question = {"question": text, "answer": names[0], "aliases": names[1:]}
            question["recalled_relation"] = groups.get("Recalled Relation")
            if category:
                question["category"] = category
            questions.append(question)
        result["portability"] = questions
    return {name: value for name, value in result.items() if value is not None}


def _with_locality(fields: dict[str, object], *, old: object) -> dict[str, object]:
    """Gather the locality prompts of a row, with their own answers, in the field ``locality``.

    EasyEdit's groups and a table's columns become objects with prompt and answer, and the group's name as category. A
    prompt of no category whose answer is ``old``, the old object, is a neighborhood prompt of the fact, unless the row
    has such prompts itself.
    """
    rest = {name: value for name, value in fields.items() if name not in ("locality", ANSWERS, *LOCALITY)}
    if len(rest) == len(fields):
        return fields
    near = list[object]()
    locality = list[object]()
    for part in _locality_parts(fields):
        if not isinstance(part, _Answered):
            locality.append(part)
            continue
        has_old_object = old is not None and old in part.names
        if has_old_object and not part.category and "neighborhood" not in rest:
            near.append(part.prompt)
        else:
            locality.append(_locality_prompt(part))
    if near:
        rest["neighborhood"] = near
    if locality:
        rest["locality"] = locality
    return rest


def _locality_parts(fields: dict[str, object]) -> Iterator[object]:
    """Yield EasyEdit's locality prompts as `_Answered`, and the parts that are a prompt in our form unchanged."""
    value = fields.get("locality")
    if ANSWERS in fields:
        for prompt, names in _pair(value, fields[ANSWERS], field=ANSWERS):
            yield _locality_prompt(_Answered("", prompt, names))
    elif value is not None:
        for part in _as_list(value):
            if _is_group(part):
                yield from _questions_in(part, "locality")
            else:
                yield part
    prompt_field, answer_field = LOCALITY
    for prompt, names in _pair(fields.get(prompt_field), fields.get(answer_field), field=answer_field):
        yield _Answered("", prompt, names)


def _is_group(part: object) -> TypeGuard[Row]:
    """Return whether a locality prompt is a group of EasyEdit's, not an object in our form."""
    return isinstance(part, Mapping) and ("prompt" not in part or "ground_truth" in part)


def _locality_prompt(answered: _Answered) -> dict[str, object]:
    """Return a locality prompt's object; without an answer if all names are blank, as in a cell of a table."""
    names = [name for name in answered.names if name not in (None, "")]
    answer = names[0] if names else None
    fields: dict[str, object] = {"prompt": answered.prompt, "answer": answer, "aliases": names[1:]}
    if answered.category:
        fields["category"] = answered.category
    return fields


def _questions_in(groups: Row, field: str, name: str = "") -> Iterator[_Answered]:
    """Yield the prompts under EasyEdit's or CounterFactPlus' field names, also from nested groups.

    The category is the group's ``name``; neighbours of the fact, in EasyEdit's group ``neighborhood``, have none.
    """
    category = "" if name in _NEIGHBORHOOD else name
    if "New Question" in groups:
        for prompt, names in _pair(groups["New Question"], groups.get("New Answer"), field=f"{field}.New Answer"):
            yield _Answered(category, prompt, names)
        return
    if "prompt" in groups:
        for prompt, names in _pair(groups["prompt"], groups.get("ground_truth"), field=f"{field}.ground_truth"):
            yield _Answered(category, prompt, names)
        return
    for inner, group in groups.items():
        for part in _as_list(group):
            if isinstance(part, Mapping):
                yield from _questions_in(part, f"{field}.{inner}", inner)
            elif part is not None:
                message = f"found {describe(part)}; expected objects with prompt and ground_truth"
                raise EditError([Fault(f"{field}.{inner}", message)])


def _as_list(value: object) -> list[object]:
    """Return a list itself, and any other value as a list of one."""
    if isinstance(value, list):
        return value
    return [value]


def _pair(prompt: object, answer: object, *, field: str) -> Iterator[tuple[object, list[object]]]:
    """Yield (prompt, names of its right answers), from one prompt or from a list of prompts with a list of answers."""
    if isinstance(prompt, list) and answer is None:
        answer = [None] * len(prompt)
    if isinstance(prompt, list) and isinstance(answer, list):
        if len(prompt) != len(answer):
            message = f"{len(prompt)} prompts have {len(answer)} answers; give each prompt one answer or list"
            raise EditError([Fault(field, message)])
        for text, names in zip(prompt, answer, strict=True):
            yield text, _flatten(names) or [None]
    elif prompt is not None:
        yield prompt, _flatten(answer) or [None]
    elif answer is not None:
        raise EditError([Fault(field, f"found {describe(answer)}, and no prompt; give the prompt that it answers")])


def _flatten(answer: object) -> list[object]:
    """Return all names of the right answers: EasyEdit has a text, a list of aliases, or a list of such lists."""
    if not isinstance(answer, list):
        return [answer]
    names = []
    for part in answer:
        names += _flatten(part)
    return names
