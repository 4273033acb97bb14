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
NEIGHBORHOOD = "neighborhood"
TRIPLET_IDS = {"target_new_id": "new_object_id", "target_true_id": "object_id"}
LISTS = ("paraphrases", "neighborhood")
# Written by `wikidata-cache link` where no candidate clearly leads; the whole fact in a row of EasyEdit's zsRE
_UNUSED = ("candidates", "cond")
LOCALITY = ("locality_prompt", "locality_ground_truth")
ANSWERS = "locality_answer"  # the column with the answers of the column locality
_EASY_EDIT = {"ground_truth", "rephrase_prompt", "rephrase_prompts", "locality", *LOCALITY}


def canonical(row: Row, *, triplet: bool) -> tuple[dict[str, object], dict[str, str]]:
    """Rename the row's fields to those of `Edit` (or of a triplet).

    Returns the renamed row, and a map from the new field names to the row's own names.

    Args:
        row: a row of any shape. Of a CounterFact record, only fields that are not used are removed.
        triplet: whether the row is a triplet.
    """
    row_fields = {name: value for name, value in row.items() if name not in _UNUSED}
    if "requested_rewrite" in row:
        return row_fields, {}
    aliases = {**ALIASES, **({**TRIPLET_IDS, "ground_truth": "object"} if triplet else {})}
    renamed = {name: aliases[name] for name in row_fields if name in aliases}
    fields: dict[str, object] = {}
    for name, value in row_fields.items():
        field = renamed.get(name, name)
        if field in fields:
            other = next(other for other in row_fields if renamed.get(other, other) == field)
            raise EditError([Fault(name, f"is the same field as {other!r}, which the row has too; keep one of them")])
        fields[field] = [value] if field in LISTS and isinstance(value, str) else value
    names = {field: name for name, field in renamed.items()}
    if not triplet:
        fields = _from_easy_edit(fields, row_fields)
    return _with_locality(fields, old=fields.get("object" if triplet else "target_true")), names


def _from_easy_edit(fields: dict[str, object], row: Row) -> dict[str, object]:
    """Turn the fields of an EasyEdit row into those of an `Edit`; leave other rows unchanged."""
    if row.keys().isdisjoint(_EASY_EDIT) and not isinstance(fields.get("portability"), Mapping):
        return fields
    result = dict(fields)
    # Their prompt has the subject's name; ours has {} where the name occurs exactly once, as a whole word.
    prompt = result.get("prompt")
    subject = result.get("subject")
    if isinstance(prompt, str) and isinstance(subject, str) and subject.strip() and "{}" not in prompt:
        parts = re.split(whole(subject.strip(), prompt), prompt)
        result["prompt"] = "{}".join(parts) if len(parts) == 2 else prompt
    if isinstance(old := result.get("target_true"), list) and old:
        result["target_true"] = old[0]
    if isinstance(groups := result.get("portability"), Mapping):
        recalled = groups.get("Recalled Relation")
        result["portability"] = [
            {"question": prompt, "answer": answer, "aliases": others, "recalled_relation": recalled, **_of(category)}
            for category, prompt, (answer, *others) in _pairs(groups, "portability")
        ]
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
    value = fields.get("locality")
    prompts: list[object] = []
    if ANSWERS in fields:
        prompts += [_named("", prompt, names) for prompt, names in _paired(value, fields[ANSWERS], field=ANSWERS)]
    elif value is not None:
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Mapping) and ("prompt" not in part or "ground_truth" in part):
                prompts += _pairs(part, "locality")
            else:
                prompts.append(part)
    prompts += (("", *pair) for pair in _paired(*map(fields.get, LOCALITY), field=LOCALITY[1]))
    near: list[object] = []
    locality: list[object] = []
    for prompt in prompts:
        if not isinstance(prompt, tuple):
            locality.append(prompt)
        elif old is not None and not prompt[0] and old in prompt[2] and "neighborhood" not in rest:
            near.append(prompt[1])
        else:
            locality.append(_named(*prompt))
    return {**rest, **({"neighborhood": near} if near else {}), **({"locality": locality} if locality else {})}


def _named(category: str, prompt: object, names: list[object]) -> dict[str, object]:
    """Return a locality prompt's object; without an answer if all names are blank, as in a cell of a table."""
    answer, *aliases = [name for name in names if name not in (None, "")] or [None]
    return {"prompt": prompt, "answer": answer, "aliases": aliases, **_of(category)}


def _of(category: str) -> dict[str, object]:
    return {"category": category} if category else {}


def _pairs(groups: Row, field: str, name: str = "") -> Iterator[tuple[str, object, list[object]]]:
    """Yield (category, prompt, answers) from EasyEdit's or CounterFactPlus' field names, also from nested groups.

    The category is the group's ``name``; neighbours of the fact, in EasyEdit's group ``neighborhood``, have none.
    """
    category = "" if name in (NEIGHBORHOOD, *(alias for alias in ALIASES if ALIASES[alias] == NEIGHBORHOOD)) else name
    if "New Question" in groups:
        pairs = _paired(groups.get("New Question"), groups.get("New Answer"), field=f"{field}.New Answer")
    elif "prompt" in groups:
        pairs = _paired(groups.get("prompt"), groups.get("ground_truth"), field=f"{field}.ground_truth")
    else:
        for inner, group in groups.items():
            for part in group if isinstance(group, list) else [group]:
                if isinstance(part, Mapping):
                    yield from _pairs(part, f"{field}.{inner}", inner)
                elif part is not None:
                    message = f"found {describe(part)}; expected objects with prompt and ground_truth"
                    raise EditError([Fault(f"{field}.{inner}", message)])
        return
    yield from ((category, prompt, names) for prompt, names in pairs)


def _paired(prompt: object, answer: object, *, field: str) -> Iterator[tuple[object, list[object]]]:
    """Yield (prompt, names of its right answers), from one prompt or from a list of prompts with a list of answers."""
    if isinstance(prompt, list) and answer is None:
        answer = [None] * len(prompt)
    if isinstance(prompt, list) and isinstance(answer, list):
        if len(prompt) != len(answer):
            message = f"{len(prompt)} prompts have {len(answer)} answers; give each prompt one answer or list"
            raise EditError([Fault(field, message)])
        for text, names in zip(prompt, answer, strict=True):
            yield text, list(_names(names)) or [None]
    elif prompt is not None:
        yield prompt, list(_names(answer)) or [None]
    elif answer is not None:
        raise EditError([Fault(field, f"found {describe(answer)}, and no prompt; give the prompt that it answers")])


def _names(answer: object) -> Iterator[object]:
    """All names of the right answers: EasyEdit has a text, a list of aliases, or a list of such lists."""
    if isinstance(answer, list):
        for part in answer:
            yield from _names(part)
    else:
        yield answer
