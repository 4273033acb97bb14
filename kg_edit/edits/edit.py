"""The request to edit a fact, (s, r, o -> o*): after a prompt about subject s, the model predicts o* instead of o."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeGuard, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from kg_common.ids import is_item, is_property
from kg_edit.errors import ConfigError, EditError, Fault, describe, faults_of
from kg_edit.writing_systems import whole


def _refuse_blank(text: str) -> str:
    """Return the text; refuse a blank one, and one that no tokenizer can read."""
    if not text.strip():
        raise PydanticCustomError("blank", "is empty")
    return _refuse_surrogates(text)


def _refuse_surrogates(text: str) -> str:
    """Return the text; refuse one with half a surrogate pair, which no tokenizer can read."""
    if re.search("[\ud800-\udfff]", text):
        raise ValueError(f"{text!r} contains half a surrogate pair, which no tokenizer can read; correct the text")
    return text


STORED = {"stored": True}  # the context of an edit that was made before, whose answers may have several lines
_ENGLISH = "en"  # as in `kg_edit.languages`, which only edits in other languages load
_OLD_FIELDS = {"target_new": "target_true", "target_new_id": "target_true_id"}
# An unstructured edit may have no subject. Pydantic runs three functions on its field, in this order:
# 1. `_complete_text_edit` puts this object into the field, because no file can contain it;
# 2. `_allow_no_subject` turns it into "", and refuses every other blank subject;
# 3. `_check_place_of_subject` finds "" where there is no subject, and None where the subject has a fault of its own.
_NO_SUBJECT = object()
_OR_A_FACT = ", or give the fact as subject, relation, object, new_object, where ids are looked up"
_OR_A_PARAGRAPH = ", or a paragraph as target_text"
WAYS_OF_A_ROW = (_OR_A_FACT, _OR_A_PARAGRAPH)  # ends of messages that help only where the edit is a row of a file
IS_AN_ID = "is a Wikidata id"  # in the message of an id as a name; the lint recognises the fault by these words
_BARE_ID = (
    "'{name}' " + IS_AN_ID + ", which the model would learn to generate: write the label here and the id in "
    "{field}_id" + _OR_A_FACT
)


def _refuse_line_breaks(text: str, info: ValidationInfo) -> str:
    """Return a text of one line, or any text of an edit that was made before."""
    if "\n" not in text or info.context == STORED:
        return text
    way = "write it on one line"
    if info.field_name == "target_new":
        way += _OR_A_PARAGRAPH
    raise ValueError(f"has a line break, at which a generated answer ends; {way}")


def _read_language(code: str) -> str:
    """Return the code of a language in lower case."""
    if code == _ENGLISH:
        return code
    from kg_edit.languages import check_language

    try:
        return check_language(code)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _put_on_one_line(text: str) -> str:
    """Return the words of a text with single spaces between them."""
    return " ".join(text.split())


EntityId = Annotated[str, StringConstraints(pattern="^(Q[1-9][0-9]*|node:.*[^ ].*)$")]  # node:KEY in a graph of names
PropertyId = Annotated[str, StringConstraints(pattern="^P[1-9][0-9]*$")]
Text = Annotated[str, AfterValidator(_refuse_blank)]
TextOrEmpty = Annotated[str, AfterValidator(_refuse_surrogates)]
Name = Annotated[str, AfterValidator(str.strip), AfterValidator(_refuse_blank)]
Answer = Annotated[Name, AfterValidator(_refuse_line_breaks)]
Language = Annotated[str, AfterValidator(_read_language)]
# A generated text ends with its line, so line breaks can't be taught.
Line = Annotated[str, AfterValidator(_put_on_one_line), AfterValidator(_refuse_blank)]

# JSON has no tuples, so a tuple may be given as a list; its elements are still checked strictly.
Texts = Annotated[tuple[Text, ...], Field(strict=False)]


class Record(BaseModel):
    """Base of all records read from files: immutable, no unknown fields, no silent type conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __init__(self, *unnamed: object, **fields: Any) -> None:
        if unnamed:
            required = [f"{name}=…" for name, field in type(self).model_fields.items() if field.is_required()]
            call = f"{type(self).__name__}({', '.join(required)})"
            raise EditError([Fault("", f"found {describe(unnamed[0])} without a name; give fields by name: {call}")])
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise EditError(faults_of(error, type(self))) from None

    # This attribute is pydantic's own: with it, pydantic does not call this method for the records inside a record. So
    # the fault of a question in an edit is that of the field `portability[0].answer`, and not of `answer`.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the fields that were given."""
        for name in type(self).model_fields:
            if name in self.model_fields_set:
                yield name, getattr(self, name)


class Question(Record):
    """A question whose answer follows from the edited fact (portability)."""

    question: Text = Field(description="the question")
    answer: Answer = Field(description="its answer once the edit is made")
    aliases: Texts = Field((), description="other right answers")
    recalled_relation: TextOrEmpty | None = Field(None, description="the further fact that links o* to the answer")
    category: Name | None = Field(
        None,
        description="the group that it is scored with, such as Reasoning",
    )


class LocalityPrompt(Record):
    """A prompt whose answer must not change; a text alone is a prompt without a named answer."""

    prompt: Text = Field(description="a prompt about anything else than the edited fact")
    answer: Answer | None = Field(None, description="its answer")
    aliases: Texts = Field((), description="other names of the answer")
    category: Name | None = Field(
        None,
        description="the group that it is scored with, such as Relation_Specificity",
    )

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the answer; () if there is none."""
        if not self.answer:
            return ()
        return (self.answer, *self.aliases)


def _wrap_texts(value: object) -> object:
    """Return a list of prompts, in which each prompt that is a text alone has become an object."""
    prompts = value if isinstance(value, list | tuple) else [value]
    return [{"prompt": prompt} if isinstance(prompt, str) else prompt for prompt in prompts]


Locality = Annotated[tuple[LocalityPrompt, ...], BeforeValidator(_wrap_texts), Field(strict=False)]


class Edit(Record):
    """The edit (s, r, o -> o*): after it, the model continues `text` with `target_new` instead of `target_true`.

    White space around names and around the prompt is removed. Paraphrases and neighborhood prompts contain their
    subject already, so they are not changed. A name that is only a Wikidata id is refused, because the model would
    learn to generate the id: write the label, and put the id in its own field. An edit without ``id`` gets an id
    made from subject, prompt, target and, if it is set, ``chat``: the same fact in the same form has the same id.

    An unstructured edit has ``target_text``, a paragraph, which is its ``target_new`` too. It may have no subject, and
    then its prompt, such as a question, has no {}. Not every method takes it (`EditingMethod.takes_text`).

    Raises:
        EditError: a field is wrong; it has one fault for each wrong field.
    """

    # The order of the fields matters: the validator of a field sees only the fields above it, in `info.data`.
    id: Name = Field("", description="a name for the edit, unique in its file")
    subject: Name = Field(description="s, the entity the fact is about", exclude_if=lambda name: not name)
    prompt: Name = Field(description="a sentence with {} for the subject that ends right before the object")
    target_true: Answer | None = Field(None, description="o, what the unedited model predicts")
    target_new: Answer = Field(description="o*, what the edited model should predict")
    target_text: Line | None = Field(
        None,
        description="a paragraph that the edited model should generate, in the place of target_new",
    )
    ending: TextOrEmpty = Field("", description="the text after the object in the sentence that states the fact")
    relation: Name | None = Field(None, description="the label of r")
    subject_id: EntityId | None = Field(None, description="the Wikidata id of s")
    relation_id: PropertyId | None = Field(None, description="the Wikidata id of r")
    target_true_id: EntityId | None = Field(None, description="the Wikidata id of o")
    target_new_id: EntityId | None = Field(None, description="the Wikidata id of o*")
    paraphrases: Texts = Field((), description="prompts for the same fact in other words")
    neighborhood: Texts = Field((), description="prompts about other subjects, which must not change")
    portability: Annotated[tuple[Question, ...], Field(strict=False)] = Field(
        (), description="questions whose answers follow from the edit"
    )
    locality: Locality = Field(
        (),
        description="prompts whose answers must not change: each a text, or an object with prompt and answer",
    )
    chat: bool | Literal["both"] = Field(
        False, description="true: made and asked in the form of the model's chat template; both: made in both forms"
    )

    language: Language = Field(
        _ENGLISH,
        description="the two letters of the language it is written in, such as zh",
        exclude_if=lambda code: code == _ENGLISH,
    )

    @property
    def text(self) -> str:
        """The prompt with the subject filled in. It does not use `str.format`, because a subject may contain braces."""
        return self.prompt.replace("{}", self.subject)

    @property
    def about_subject(self) -> str:
        """A prompt about the subject alone, "{} is a" in the edit's language, with {} for the subject."""
        if self.language == _ENGLISH:
            return "{} is a"
        from kg_edit.languages import fit_template, words_of

        return fit_template(words_of(self.language).essence, self.subject, self.language)

    @property
    def plain_questions(self) -> tuple[Question, ...]:
        """The portability questions of no category; those of a category are probes (`kg_edit.evaluation.case`)."""
        return tuple(question for question in self.portability if question.category is None)

    @property
    def relation_text(self) -> str:
        """The relation in words: its label, or else the prompt without the subject."""
        if self.relation:
            return self.relation
        without_subject = self.prompt.replace("{}", " ")
        return _put_on_one_line(without_subject).strip(" ,;:")

    def with_form(self, *, chat: bool | Literal["both"]) -> Self:
        """Return a copy of the edit with another ``chat``: true is chat form, false plain text. It keeps its id."""
        return self.model_copy(update={"chat": chat})

    @property
    def forms(self) -> tuple[bool, ...]:
        """The forms in which the edit is made: true is chat form, false is plain text."""
        if self.chat == "both":
            return (False, True)
        return (self.chat,)

    @property
    def asks_in_chat(self) -> bool:
        """Whether the edit's questions are asked in chat form: in the first form in which it is made."""
        return self.forms[0]

    def is_made_in_chat(self, method: str) -> bool:
        """For a ``method`` that can make an edit in only one form: return whether that form is chat form.

        Raises:
            EditError: the edit asks for both forms, which such a method refuses.
        """
        if self.chat != "both":
            return self.chat
        what = "an unstructured edit" if self.target_text else "an edit"
        way = "give true or false (CLI: --chat or --plain)"
        if not self.target_text:  # memit too makes an unstructured one in one form
            way += ", or take a method that finds a value by descent, such as rome or memit"
        message = f"found 'both' (CLI: --both-forms), and {method} makes {what} in one form; {way}"
        raise EditError([Fault("chat", message)])

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, fields: Any) -> Any:
        """Fill in what an edit may lack. The id comes first, because it is made of the fields as they were given."""
        if not isinstance(fields, dict):
            return fields
        if "id" not in fields:
            fields = {"id": _make_id(fields), **fields}
        if fields.get("target_text"):
            fields = _complete_text_edit(fields)
        return fields

    @field_validator("subject", mode="wrap")
    @classmethod
    def _allow_no_subject(cls, value: object, check: ValidatorFunctionWrapHandler) -> str:
        """Return "" for an edit without a subject, which has the mark `_NO_SUBJECT`; else check the subject."""
        if value is _NO_SUBJECT:
            return ""
        name: str = check(value)
        return name

    @field_validator("target_text")
    @classmethod
    def _refuse_two_targets(cls, text: str | None, info: ValidationInfo) -> str | None:
        """Refuse a target_text beside another target_new."""
        if text and info.data.get("target_new", text) != text:
            raise ValueError("the edit has a target_new too; keep one of the two")
        return text

    @field_validator("prompt")
    @classmethod
    def _check_place_of_subject(cls, prompt: str, info: ValidationInfo) -> str:
        """Check that the prompt has one {} if the edit has a subject, else none."""
        subject = info.data.get("subject")  # "": the edit has none; None: it has a fault of its own
        count = prompt.count("{}")
        if count > 1:
            raise ValueError(f"{prompt!r} has {count} places {{}}; keep one, in the place of the subject's name")
        if subject == "":
            if count == 1:
                raise ValueError(f"{prompt!r} has a place {{}} for a subject, and the edit has none; give the subject")
            return prompt
        if count == 0:
            raise ValueError(f"{prompt!r} has no {{}}; {_way_to_a_place(prompt, subject)}")
        return prompt

    @field_validator("target_new", "target_new_id")
    @classmethod
    def _refuse_old_target(cls, new: str | None, info: ValidationInfo) -> str | None:
        """Refuse a new target, or its id, that is the old one."""
        old = info.data.get(_OLD_FIELDS[str(info.field_name)])
        if new and old and new.casefold() == old.casefold():
            raise ValueError(f"{new!r} is also the old target, so there is nothing to edit; give another one")
        return new

    @field_validator("language")
    @classmethod
    def _refuse_mixed_directions(cls, language: str, info: ValidationInfo) -> str:
        """Refuse a prompt that mixes directions of writing; an English one may quote a word of another script."""
        if language == _ENGLISH:
            return language
        from kg_edit.languages import mixes_directions

        prompt = info.data.get("prompt", "")
        if mixes_directions(prompt):
            mixed = "mixes letters written from left to right with letters written from right to left"
            raise ValueError(f"the prompt {prompt!r} {mixed}; write it in one language")
        return language

    @model_validator(mode="after")
    def _refuse_ids_as_names(self) -> Self:
        """Refuse a name that is only an id, unless its own field has another id."""
        for field in ("subject", "relation", "target_true", "target_new"):
            name = getattr(self, field)
            id_ = getattr(self, f"{field}_id")
            if (is_item_id(name) or is_property_id(name)) and id_ in (None, name):
                raise PydanticCustomError("bare_id", _BARE_ID, {"field": field, "name": name})
        return self


def _make_id(fields: dict[str, Any]) -> str:
    """Return the id of an edit without one: up to 40 characters of the subject's words, and 6 digits of a SHA-256.

    The SHA-256 is that of the fact and its form, so equal edits have equal ids: "lebron-james-e23053".
    """
    target = "target_new" if "target_new" in fields else "target_text"
    fact = [str(fields.get(name) or "").strip() for name in ("subject", "prompt", target)]
    subject, prompt, _ = fact
    if fields.get("chat"):
        fact.append(f"chat {fields['chat']}")
    words = re.findall(r"\w+", (subject or prompt).lower())
    name = "-".join(words)[:40]
    digest = hashlib.sha256(json.dumps(fact).encode()).hexdigest()[:6]
    return f"{name}-{digest}" if name else digest


def _complete_text_edit(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an edit with a target_text, and what it may lack: target_new, the subject, its {}."""
    subject = fields.get("subject") or _NO_SUBJECT
    prompt = fields.get("prompt")
    if isinstance(subject, str) and isinstance(prompt, str) and "{}" not in prompt:
        fields = {**fields, "prompt": re.sub(whole(subject.strip(), prompt), "{}", prompt, count=1)}
    target = fields["target_text"]
    if isinstance(target, str):
        target = _put_on_one_line(target)
    # A target_new of the row comes later than ours, and so replaces it; `_refuse_two_targets` compares both.
    return {"target_new": target, **fields, "subject": subject}


def _way_to_a_place(prompt: str, subject: str | None) -> str:
    """Return what to do about a prompt without {}; None: the subject is not known."""
    way = "write {} where the subject's name belongs"
    if not subject:
        return way
    match = re.search(whole(subject, prompt), prompt, re.IGNORECASE)
    if match is None:
        return f"the subject {subject!r} does not occur in it; {way}"
    with_place = prompt[: match.start()] + "{}" + prompt[match.end() :]
    return f"write {with_place!r}"


def is_item_id(name: object) -> TypeGuard[str]:
    """Return whether `name` is the id of an item of Wikidata, as Q36159 is; an `EntityId` may also be a node:KEY."""
    return isinstance(name, str) and is_item(name)


def is_property_id(name: object) -> TypeGuard[str]:
    """Return whether `name` is the id of a Wikidata property, as P54 is."""
    return isinstance(name, str) and is_property(name)


AnyRecord = TypeVar("AnyRecord", bound=Record)


def parse_record(
    model: type[AnyRecord], fields: Mapping[str, object], *, context: dict[str, bool] | None = None
) -> AnyRecord:
    """Check `fields`, and build a record of class `model` from them; `context` is `STORED` for the fields of a patch.

    `model(**fields)` does the same without a context.
    """
    try:
        return model.model_validate(dict(fields), context=context)
    except ValidationError as error:
        raise EditError(faults_of(error, model)) from None


def refuse_same_ids(what: str, ids: Iterable[str]) -> None:
    """Refuse two equal ids among those of ``what``, such as "edits", for the message."""
    first: dict[str, int] = {}
    for number, id_ in enumerate(ids, 1):
        earlier = first.setdefault(id_, number)
        if earlier != number:
            raise ConfigError(f"{what} {earlier} and {number} have the same id {id_!r}; give each its own")


def without_repeats(edits: Sequence[Edit]) -> tuple[tuple[Edit, ...], tuple[tuple[str, str], ...]]:
    """Leave out edits that are equal to an earlier one in all fields but the id.

    Returns:
        The edits that are left, and (id, id of the earlier edit) of each that is left out.
    """
    first: dict[str, Edit] = {}
    repeats = []
    for edit in edits:
        content = edit.model_dump_json(exclude={"id"})
        earliest = first.setdefault(content, edit)
        if earliest is not edit:
            repeats.append((edit.id, earliest.id))
    return tuple(first.values()), tuple(repeats)


def find_opposed(edits: Iterable[Edit]) -> tuple[tuple[str, str], ...]:
    """Return the ids of the `_opposing_pairs`: (id of the edit, id of the earlier one)."""
    return tuple((edit.id, earliest.id) for edit, earliest in _opposing_pairs(edits))


def _opposing_pairs(edits: Iterable[Edit]) -> Iterator[tuple[Edit, Edit]]:
    """Yield (edit, the first edit of the same prompt and form) where their new targets differ.

    Each edit is compared with the first one only: of x -> 1, x -> 2, x -> 1 the second is yielded, the third is not.
    """
    first: dict[tuple[str, bool], Edit] = {}  # by prompt and form
    for edit in edits:
        opposing = []
        for form in edit.forms:
            earliest = first.setdefault((edit.text, form), edit)
            if earliest.target_new != edit.target_new:
                opposing.append(earliest)
        if opposing:
            yield edit, opposing[0]


def refuse_clash(edits: Iterable[Edit]) -> None:
    """Refuse two edits of one batch that give the same prompt different targets."""
    for edit, other in _opposing_pairs(edits):
        message = (
            f"one batch can't make both {edit.text!r} -> {other.target_new!r} (edit {other.id!r}) and -> "
            f"{edit.target_new!r} (edit {edit.id!r}); keep one, or make one after the other"
        )
        raise EditError([Fault("target_new", message)])
