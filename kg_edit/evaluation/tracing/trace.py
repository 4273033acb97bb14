"""Causal tracing of one fact (Meng et al. 2022, arXiv 2202.05262, section 2.1): which state restores the answer?

- `trace`: for each token and layer, P(answer) with that clean state restored in the corrupted run. `Trace` is the
  result, `TraceSettings` are the settings. The runs themselves are in `kg_edit.evaluation.tracing.corrupted_run`.
- `TracedFact`: a prompt, its subject and its answer, from an edit (`facts_of`) or from a published list of known facts
  (`read_known`).
- `roles`: each token's role in its prompt, as in the paper's averages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from kg_edit.edits.edit import Edit, Name, Record
from kg_edit.edits.files import numbered_rows, unit_of
from kg_edit.errors import ConfigError, EditError, EditFileError, Fault, ModelError, describe, faults_of
from kg_edit.evaluation.tracing.corrupted_run import (
    CleanRun,
    CorruptedRun,
    Kind,
    default_window,
    draw_noise,
    subject_tokens,
    window_around,
)
from kg_edit.models.first_token import readable_contexts
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode
from kg_edit.models.sampling import BARE

BEFORE = "before the subject"  # these tokens are not corrupted, and not in the paper's figure
FIRST = "first subject token"
MIDDLE = "middle subject tokens"
LAST = "last subject token"
NEXT = "first token after"
FURTHER = "further tokens"
END = "last token"
ROLES = (FIRST, MIDDLE, LAST, NEXT, FURTHER, END)
Answer = Literal["predicted", "true"]
ANSWERS: tuple[Answer, ...] = ("predicted", "true")
Grid = tuple[tuple[float, ...], ...]


class TracedFact(Record):
    """A prompt about a subject, and the answer of a model that knows the fact."""

    id: Name = Field(description="a name for the fact, unique among those traced")
    subject: Name = Field(description="what the fact is about")
    prompt: Name = Field(description="a sentence with {} for the subject that ends right before the object")
    answer: Name | None = Field(None, description="the object")
    chat: bool = Field(False, description="ask in chat form")

    @property
    def text(self) -> str:
        """The prompt with the subject instead of {}."""
        return self.prompt.replace("{}", self.subject)


class TraceSettings(BaseModel):
    """The states to restore, and the number of noise samples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = "mlp"
    window: PositiveInt | None = None  # layers restored together; None: `default_window`
    samples: PositiveInt = 10  # noise samples
    answer: Answer = "predicted"  # the model's own next token, or the first token of the fact's answer
    seed: int = 0


class Trace(BaseModel):
    """The trace of a fact; probabilities are means over the noise samples.

    ``restored`` is [tokens][layers], where the layer is the middle of the window. ``known``: whether the model's own
    next token is the first token of the fact's answer (None if the fact has no answer).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    prompt: str
    answer: str  # the token whose probability is traced
    known: bool | None = None
    kind: Kind
    window: int
    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    clean: float
    corrupted: float
    restored: Grid

    @property
    def effects(self) -> Grid:
        """Indirect effects p[restored] - p[corrupted], [tokens][layers]."""
        rows = []
        for row in self.restored:
            rows.append(tuple(value - self.corrupted for value in row))
        return tuple(rows)


def trace(
    model: LanguageModel,
    fact: TracedFact,
    settings: TraceSettings | None = None,
    *,
    level: float,
    note: Callable[[str], object] | None = None,
) -> Trace:
    """Trace one fact; the model is not changed.

    Args:
        model: the model.
        fact: the fact.
        settings: the sites to restore, and the noise.
        level: the standard deviation of the noise (see `noise_level`).
        note: called with each layer in words, such as a progress bar's `note`: a fact of a large model takes minutes.
    """
    settings = settings or TraceSettings()
    prompt = prompt_of(model, fact)
    window = settings.window or default_window(model, settings.kind)
    with keep_untouched(model):
        clean = CleanRun(model, prompt, kind=settings.kind)
        predicted = int(clean.probabilities.argmax())
        true = _first_answer_token(model, fact)
        if settings.answer == "predicted":
            answer = predicted
        else:
            answer = _require_answer(true, fact)
        noise = draw_noise(model, prompt, level=level, samples=settings.samples, seed=settings.seed)
        run = CorruptedRun(clean, noise=noise, answer=answer)
        corrupted = float(run.probability.mean())
        grid = _restore_each(run, prompt, corrupted, window=window, layers=len(model.blocks), note=note)
    measured = [float(clean.probabilities.sum())]
    for restored in grid:
        measured += restored
    if not all(math.isfinite(number) for number in measured):
        raise ModelError(f"the model's output after {fact.text!r} is not finite, so nothing can be traced; use float32")
    return Trace(
        id=fact.id,
        prompt=fact.text,
        answer=str(model.tokenizer.decode([answer])),
        known=_is_predicted(true, predicted),
        kind=settings.kind,
        window=window,
        tokens=tuple(str(model.tokenizer.decode([token])) for token in prompt.ids),
        roles=roles(prompt),
        clean=float(clean.probabilities[answer]),
        corrupted=corrupted,
        restored=grid,
    )


def _require_answer(true: int | None, fact: TracedFact) -> int:
    """Return the token of the fact's answer; refuse a fact without one."""
    if true is None:
        raise ConfigError(
            f"the fact {fact.text!r} has no answer to trace; give its edit a target_true, or trace the model's own "
            "next token with --answer predicted"
        )
    return true


def _restore_each(
    run: CorruptedRun,
    prompt: Prompt,
    corrupted: float,
    *,
    window: int,
    layers: int,
    note: Callable[[str], object] | None,
) -> Grid:
    """Return P(answer) [tokens][layers], with the clean state of one token restored around one layer."""
    # A token before the subject is not corrupted, so restoring it changes nothing, and it is not run.
    first = subject_tokens(prompt).start
    entries = [[token] for token in range(first, len(prompt.ids))]
    columns = list[Sequence[float]]()  # of each layer, one value for each token
    for layer in range(layers):
        if note:
            note(f"layer {layer + 1} of {layers}")
        restored = run.restore(window_around(layer, size=window, layers=layers), entries)  # [entries, samples]
        columns.append([corrupted] * first + restored.mean(1).tolist())
    return tuple(zip(*columns, strict=True))


def is_known(model: LanguageModel, fact: TracedFact) -> bool | None:
    """Return whether the model's next token is the first of the fact's answer; None if the fact has no answer."""
    true = _first_answer_token(model, fact)
    prompt = prompt_of(model, fact)
    with keep_untouched(model):
        probabilities = CleanRun(model, prompt, kind="hidden").probabilities
    return _is_predicted(true, int(probabilities.argmax()))


def _is_predicted(true: int | None, predicted: int) -> bool | None:
    """Return whether the predicted token is the answer's first one; None for a fact without an answer."""
    if true is None:
        return None
    return predicted == true


def prompt_of(model: LanguageModel, fact: TracedFact, *, target: str | None = None) -> Prompt:
    """Return the fact's prompt with ``target``, after a line break if the subject would be an attention sink."""
    form = model.chat_form if fact.chat else None
    bare = encode(model.tokenizer, fact.prompt, subject=fact.subject, chat=form)
    (context,) = readable_contexts(model, bare, (BARE,))
    return encode(model.tokenizer, fact.prompt, subject=fact.subject, chat=form, target=target, context=context)


def _first_answer_token(model: LanguageModel, fact: TracedFact) -> int | None:
    if fact.answer is None:
        return None
    return prompt_of(model, fact, target=fact.answer).target_ids[0]


def roles(prompt: Prompt) -> tuple[str, ...]:
    """Return the role of each token of a prompt without target; each token has exactly one role.

    If the subject has one token, it is the subject's last token, even at the end of the prompt. The prompt's last token
    has the role "last token" even directly after the subject.
    """
    subject = subject_tokens(prompt)
    length = len(prompt.ids)
    named = {length - 1: END, subject.start: FIRST, subject[-1]: LAST}  # the later name wins
    if subject.stop < length - 1:
        named[subject.stop] = NEXT
    token_roles = list[str]()
    for position in range(length):
        if position in named:
            token_roles.append(named[position])
        elif position in subject:
            token_roles.append(MIDDLE)
        elif position < subject.start:
            token_roles.append(BEFORE)
        else:
            token_roles.append(FURTHER)
    return tuple(token_roles)


def facts_of(edits: Sequence[Edit]) -> tuple[TracedFact, ...]:
    """Return the facts before the edits, with the old object as answer; an edit in both forms is asked in plain."""
    facts = []
    for edit in edits:
        if not edit.subject:
            way = "leave the edit out; kg-edit edit also takes --layer N in the place of --layer auto"
            problem = f"edit {edit.id!r} has no subject, and causal tracing adds its noise to the subject's tokens"
            raise EditError([Fault("", f"{problem}; {way}")])
        is_chat = edit.asks_in_chat
        fact = TracedFact(id=edit.id, subject=edit.subject, prompt=edit.prompt, answer=edit.target_true, chat=is_chat)
        facts.append(fact)
    return tuple(facts)


class KnownRow(Record):
    """A row of a list of known facts, as published with ROME (Meng et al. 2022)."""

    subject: Name = Field(description="what the fact is about")
    prompt: Name = Field(description="the sentence about the subject, the subject's name in it")
    attribute: Name = Field(description="the object")
    known_id: int | str | None = Field(None, description="the fact's name")
    template: str | None = Field(None, description="ignored")
    prediction: str | None = Field(None, description="ignored: the prediction of GPT-2 XL")
    relation_id: str | None = Field(None, description="ignored")


def read_known(path: Path) -> tuple[TracedFact, ...]:
    """Read a list of known facts (.json or .jsonl)."""
    if path.is_file() and path.suffix.lower() not in (".json", ".jsonl"):
        found = f"ends in {path.suffix!r}"
        raise EditFileError(f"{path}: {found}; expected .json or .jsonl, with rows of subject, prompt, attribute")
    facts = list[TracedFact]()
    for number, row in numbered_rows(path):
        try:
            facts.append(_known_fact(row, number))
        except EditError as error:
            raise EditFileError(f"{path}, {unit_of(path)} {number}, {error.faults[0]}") from error
    if not facts:
        raise EditFileError(f"{path}: found no rows; expected one known fact in each row: subject, prompt, attribute")
    return tuple(facts)


def _known_fact(row: object, number: int) -> TracedFact:
    if isinstance(row, EditError):  # a line that is no JSON
        raise row
    if not isinstance(row, dict):
        raise EditError([Fault("", f"found {describe(row)}; expected an object {{...}} of fields")])
    try:
        known = KnownRow.model_validate(row)
    except ValidationError as error:
        raise EditError(faults_of(error, KnownRow)) from error
    if known.subject not in known.prompt:
        problem = f"{known.prompt!r} does not contain the subject {known.subject!r}; add the subject"
        raise EditError([Fault("prompt", problem)])
    name = number if known.known_id is None else known.known_id
    prompt = known.prompt.replace(known.subject, "{}", 1)
    return TracedFact(id=f"known-{name}", subject=known.subject, prompt=prompt, answer=known.attribute)
