"""Translate the field names that people and other tools write, EasyEdit above all, into the field names of `Edit`.

`ALIASES` lists the other names of a field. An EasyEdit row differs in two more ways: its prompt has the subject's name
where ours has {}, and its ``locality`` and ``portability`` fields have named groups of prompts with their own answers.
So `translate_row` makes of

    {"subject": "Colombia", "prompt": "In Colombia, one speaks", "ground_truth": "Spanish", "target_new": "Dutch",
     "locality": {"Relation_Specificity": [{"prompt": "Colombia lies in", "ground_truth": [["America", "Americas"]]}]},
     "portability": {"Reasoning": [{"prompt": "Who shares its language?", "ground_truth": "Suriname"}]}}

this row:

    {"subject": "Colombia", "prompt": "In {}, one speaks", "target_true": "Spanish", "target_new": "Dutch",
     "locality": [{"prompt": "Colombia lies in", "answer": "America", "aliases": ["Americas"],
                   "category": "Relation_Specificity"}],
     "portability": [{"question": "Who shares its language?", "answer": "Suriname", "aliases": [],
                      "category": "Reasoning"}]}

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
# In a triplet the ids of o* and o are called after its own fields, new_object and object.
_TRIPLET_IDS = {"target_new_id": "new_object_id", "target_true_id": "object_id"}
LISTS = ("paraphrases", "neighborhood")
# `wikidata-cache link` writes the first where no candidate clearly leads; EasyEdit's zsRE has the fact in the second.
_UNUSED = ("candidates", "cond")
LOCALITY_COLUMNS = ("locality_prompt", "locality_ground_truth")  # of EasyEdit: prompts, and their answers
ANSWER_COLUMN = "locality_answer"  # of a table (CSV): the answers of its column locality
_EASY_EDIT = {"ground_truth", "rephrase_prompt", "rephrase_prompts", "locality", *LOCALITY_COLUMNS}


class _Answered(NamedTuple):
    """A prompt of EasyEdit with the names of its right answer.

    ``category`` is the name of its group. It is "" if there is no group, and for the group neighborhood.
    """

    category: str
    prompt: object
    names: list[object]


def translate_row(row: Row, *, triplet: bool) -> tuple[dict[str, object], dict[str, str]]:
    """Translate a row into the fields of `Edit` (or of a triplet).

    Args:
        row: a row of any shape. In a CounterFact record nothing is translated; only unused fields are removed.
        triplet: whether the row is a triplet.

    Returns:
        The translated row, and a map from the new field names to the row's own names, where these differ.
    """
    used = {name: value for name, value in row.items() if name not in _UNUSED}
    if "requested_rewrite" in row:
        return used, {}
    if triplet:
        fields, own_names = _rename(used, {**ALIASES, **_TRIPLET_IDS, "ground_truth": "object"})
        old_object = fields.get("object")
    else:
        fields, own_names = _rename(used, ALIASES)
        if _may_be_easy_edit(used):
            fields = _from_easy_edit(fields)
        old_object = fields.get("target_true")
    return _with_locality(fields, old_object), own_names


def _rename(row: Row, aliases: Mapping[str, str]) -> tuple[dict[str, object], dict[str, str]]:
    """Return a row with its fields renamed, and the row's own name of each field that was renamed."""
    fields: dict[str, object] = {}
    own_names: dict[str, str] = {}  # by the new name
    for name, value in row.items():
        field = aliases.get(name, name)
        if field in fields:
            other = own_names.get(field, field)
            raise EditError([Fault(name, f"is the same field as {other!r}, which the row has too; keep one of them")])
        if field in LISTS and isinstance(value, str):
            value = [value]
        fields[field] = value
        if field != name:
            own_names[field] = name
    return fields, own_names


def _may_be_easy_edit(row: Row) -> bool:
    """Return whether a row has a field that EasyEdit's rows have, or groups of questions as they have.

    Our own rows have ``locality`` too. They are translated like EasyEdit's on purpose: that changes nothing in a row
    that is right in our form, and gives a prompt without {} its {}.
    """
    has_groups = any(isinstance(row.get(name), Mapping) for name in ("portability", "questions"))
    return has_groups or not row.keys().isdisjoint(_EASY_EDIT)


def _from_easy_edit(fields: dict[str, object]) -> dict[str, object]:
    """Turn the renamed fields of an EasyEdit row into those of an `Edit`: see the top of this file."""
    result = dict(fields)
    result["prompt"] = _put_braces(fields.get("prompt"), fields.get("subject"))
    old = fields.get("target_true")
    if isinstance(old, list) and old:
        result["target_true"] = old[0]
    groups = fields.get("portability")
    if isinstance(groups, Mapping):
        result["portability"] = _questions(groups)
    return {name: value for name, value in result.items() if value is not None}  # EasyEdit writes null for nothing


def _put_braces(prompt: object, subject: object) -> object:
    """Return a prompt with {} for the subject's name, if that occurs exactly once, as a whole word."""
    if not isinstance(prompt, str) or not isinstance(subject, str):
        return prompt
    if "{}" in prompt or not subject.strip():
        return prompt
    parts = re.split(whole(subject.strip(), prompt), prompt)
    if len(parts) != 2:
        return prompt
    return "{}".join(parts)


def _questions(groups: Row) -> list[object]:
    """Return the questions of an `Edit` from EasyEdit's groups of them, or from the one group of CounterFactPlus.

    That one has no name, but a relation that is recalled for all its questions:

        {"Recalled Relation": "(Colombia, language, Spanish)", "New Question": "…", "New Answer": ["Suriname"]}
    """
    recalled_relation = groups.get("Recalled Relation")
    questions = list[object]()
    for category, text, names in _prompts_in(groups, "portability"):
        question = {"question": text, "answer": names[0], "aliases": names[1:]}
        if recalled_relation is not None:
            question["recalled_relation"] = recalled_relation
        if category:
            question["category"] = category
        questions.append(question)
    return questions


def _with_locality(fields: dict[str, object], old: object) -> dict[str, object]:
    """Return the fields with the locality prompts of all shapes in the fields of `Edit`.

    They are in ``locality``, as objects with their own answers, or, if their answer is the row's old object ``old``, in
    ``neighborhood``: see `_choose_field`.
    """
    locality_names = ("locality", ANSWER_COLUMN, *LOCALITY_COLUMNS)
    if fields.keys().isdisjoint(locality_names):
        return fields
    rest = {name: value for name, value in fields.items() if name not in locality_names}
    if "neighborhood" in rest:  # the row has its neighborhood prompts itself, so no other prompt becomes one
        old = None
    prompts: dict[str, list[object]] = {"neighborhood": [], "locality": []}
    for field, prompt in _locality_prompts(fields, old):
        prompts[field].append(prompt)
    return rest | {field: found for field, found in prompts.items() if found}


def _locality_prompts(fields: dict[str, object], old: object) -> Iterator[tuple[str, object]]:
    """Yield each locality prompt of a row: the field of `Edit` where it belongs, and its value there.

    A row may have them in three ways:

        locality and locality_answer                      two columns of a table
        locality                                          objects in our form, or EasyEdit's groups
        locality_prompt and locality_ground_truth         two fields of EasyEdit, perhaps beside one of the others
    """
    value = fields.get("locality")
    if ANSWER_COLUMN in fields:
        for prompt, names in _pair(value, fields[ANSWER_COLUMN], field=ANSWER_COLUMN):
            yield "locality", _locality_object(_Answered("", prompt, names))
    elif value is not None:
        for part in _as_list(value):
            if _is_easy_edit_locality(part):
                for answered in _prompts_in(part, "locality"):
                    yield _choose_field(answered, old)
            else:
                yield "locality", part  # it is in our form
    prompt_field, answer_field = LOCALITY_COLUMNS
    for prompt, names in _pair(fields.get(prompt_field), fields.get(answer_field), field=answer_field):
        yield _choose_field(_Answered("", prompt, names), old)


def _is_easy_edit_locality(part: object) -> TypeGuard[Row]:
    """Return whether a locality prompt is EasyEdit's, a group or one prompt, and not an object in our form."""
    return isinstance(part, Mapping) and ("prompt" not in part or "ground_truth" in part)


def _choose_field(answered: _Answered, old: object) -> tuple[str, object]:
    """Return the field of `Edit` where EasyEdit's locality prompt belongs, and its value there.

    A prompt of no category whose answer is the fact's old object is a neighborhood prompt, which has no answer of its
    own. So if ``old`` is "Spanish":

        _Answered("", "In Peru, one speaks", ["Spanish"])  -> "neighborhood", "In Peru, one speaks"
        _Answered("", "Peru lies in", ["America"])         -> "locality", {"prompt": "Peru lies in", "answer": …}

    If ``old`` is None, all prompts belong into ``locality``.
    """
    has_old_object = old is not None and old in answered.names
    if has_old_object and not answered.category:
        return "neighborhood", answered.prompt
    return "locality", _locality_object(answered)


def _locality_object(answered: _Answered) -> dict[str, object]:
    """Return a locality prompt's object; without an answer if all names are blank, as in a cell of a table."""
    names = [name for name in answered.names if name not in (None, "")]
    answer = names[0] if names else None
    fields: dict[str, object] = {"prompt": answered.prompt, "answer": answer, "aliases": names[1:]}
    if answered.category:
        fields["category"] = answered.category
    return fields


def _prompts_in(group: Row, field: str, name: str = "") -> Iterator[_Answered]:
    """Yield the prompts in a group of EasyEdit's, and in the groups inside it.

        {"Reasoning": [{"prompt": "Who shares it?", "ground_truth": ["Brazil", "Brasil"]}]}
        -> _Answered("Reasoning", "Who shares it?", ["Brazil", "Brasil"])

    Args:
        group: an object with a prompt and its answers (in EasyEdit's names or in CounterFactPlus'), or {name: group}.
        field: where the group is in the row, for errors.
        name: the group's name, which is the category of its prompts; the group ``neighborhood`` has none.
    """
    category = "" if name in _NEIGHBORHOOD else name
    for prompt_field, answer_field in (("New Question", "New Answer"), ("prompt", "ground_truth")):
        if prompt_field in group:
            answers = group.get(answer_field)
            for prompt, names in _pair(group[prompt_field], answers, field=f"{field}.{answer_field}"):
                yield _Answered(category, prompt, names)
            return
    for inner_name, inner in group.items():
        inner_field = f"{field}.{inner_name}"
        for part in _as_list(inner):
            if isinstance(part, Mapping):
                yield from _prompts_in(part, inner_field, inner_name)
            elif part is not None:
                message = f"found {describe(part)}; expected objects with prompt and ground_truth"
                raise EditError([Fault(inner_field, message)])


def _as_list(value: object) -> list[object]:
    """Return a list itself, and any other value as a list of one."""
    if isinstance(value, list):
        return value
    return [value]


def _pair(prompt: object, answer: object, *, field: str) -> Iterator[tuple[object, list[object]]]:
    """Yield each prompt with the names of its right answer; ``field`` is that of the answer.

    prompt       answer               yielded
    "A"          "x"                  ("A", ["x"])
    "A"          ["x", "y"]           ("A", ["x", "y"])              other names of one answer
    "A"          None                 ("A", [None])
    ["A", "B"]   ["x", ["y", "z"]]    ("A", ["x"]), ("B", ["y", "z"])
    ["A", "B"]   None                 ("A", [None]), ("B", [None])
    ["A", "B"]   "x"                  (["A", "B"], ["x"])            the check of the prompt's type refuses it
    None         None                 nothing
    """
    if prompt is None:
        if answer is not None:
            raise EditError([Fault(field, f"found {describe(answer)}, and no prompt; give the prompt that it answers")])
        return
    if isinstance(prompt, list) and answer is None:
        answer = [None] * len(prompt)
    if not isinstance(prompt, list) or not isinstance(answer, list):
        yield prompt, _flatten(answer) or [None]
        return
    if len(prompt) != len(answer):
        message = f"{len(prompt)} prompts have {len(answer)} answers; give each prompt one answer or list"
        raise EditError([Fault(field, message)])
    for text, names in zip(prompt, answer, strict=True):
        yield text, _flatten(names) or [None]


def _flatten(answer: object) -> list[object]:
    """Return all names of the right answers: EasyEdit has a text, a list of aliases, or a list of such lists."""
    if not isinstance(answer, list):
        return [answer]
    names = []
    for part in answer:
        names += _flatten(part)
    return names
