"""What a model says, without and with a patch: the one reader behind the report, `patch check` and the served page.

`responses` asks a model queries: what it continues a prompt with, and how likely the candidates are after it. `read`
asks the probes of an edit (the rewrite, its paraphrases, what follows from it, and its neighbours) and judges the
responses; `before_and_after` does so without and with a patch. `kg_edit.jobs.report` shows the outcome.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer
from tqdm import tqdm

from kg_edit.edits.edit import Edit
from kg_edit.errors import KgEditError
from kg_edit.models.first_token import lead_before
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.likelihood import Pair, check_lengths, score
from kg_edit.scoring.questions import format_question, format_question_with_shots, right_answers
from kg_edit.text.matching import begins_with, first_sentence, mentions

Kind = Literal["rewrite", "paraphrase", "follows", "neighbour"]
_TOKENS = 10  # written after a probe
_CHAT_TOKENS = 24  # in chat form: a sentence
_ROWS = 32  # queries in a batch: one of all prompts of a long file would fill the memory


@dataclass(frozen=True, kw_only=True)
class Query:
    """``ask`` is what the model continues, ``score`` the prompt after which ``candidates`` are scored.

    ``chat``: both are a user's turn.
    """

    ask: str
    score: str
    candidates: tuple[str, ...]
    chat: bool = False


@dataclass(frozen=True, kw_only=True)
class CandidateCost:
    """-log p of a candidate after a prompt, in nats: ``mean`` over its ``tokens``."""

    mean: float
    tokens: int

    @property
    def total(self) -> float:
        """-log p of the whole candidate."""
        return self.tokens * self.mean

    @property
    def probability(self) -> float:
        """p of the whole candidate, exp(-total)."""
        return math.exp(-self.total)


@dataclass(frozen=True, kw_only=True)
class Response:
    """What a model does with a query: its greedy continuation, and the cost of each candidate."""

    text: str
    costs: tuple[CandidateCost, ...]


def check_queries(model: LanguageModel, queries: Sequence[Query], *, tokens: int) -> None:
    """Encode every query, so that one that can't be asked is known before an edit is computed.

    Raises:
        PromptError: a prompt's end and a candidate can't be told apart.
        ModelError: a prompt with a candidate, or with ``tokens`` more tokens, doesn't fit into the model's positions.
        ChatTemplateError: one is asked in chat form, and the tokenizer has no chat template.
    """
    for query in queries:
        reader = _reader(model, query)
        check_lengths(model, [reader.encode(query.score, target=name) for name in query.candidates])
        check_lengths(model, [reader.encode(query.ask)], more=max(tokens, _longest(query)))


def responses(
    model: LanguageModel, queries: Sequence[Query], *, tokens: int, progress: str | None = None
) -> tuple[Response, ...]:
    """What the model as it stands does with each query; texts are ``tokens`` long, or shorter where they end.

    In chat form they are longer: a sentence, in which the answer stands somewhere. ``progress`` is the title of a
    progress bar.

    Raises:
        PromptError: a prompt's end and a candidate can't be told apart.
        ModelError: the model's output is not finite, or a query does not fit into its positions.
    """
    found: dict[int, Response] = {}
    hidden = None if progress else True  # None: shown on a terminal
    with tqdm(total=len(queries), desc=progress, unit="prompt", disable=hidden, leave=False) as bar:
        for places in _batches(queries):
            found |= zip(places, _batch(model, [queries[place] for place in places], tokens), strict=True)
            bar.update(len(places))
    return tuple(found[place] for place in range(len(queries)))


def _batches(queries: Sequence[Query]) -> Iterator[list[int]]:
    """The places of queries of one form, at most `_ROWS` at once."""
    for chat in (False, True):
        places = [place for place, query in enumerate(queries) if query.chat == chat]
        yield from (places[start : start + _ROWS] for start in range(0, len(places), _ROWS))


def _reader(model: LanguageModel, query: Query) -> LanguageModel:
    """The model in the form in which the query is asked."""
    return model.in_chat() if query.chat else model


def _longest(query: Query) -> int:
    return _CHAT_TOKENS if query.chat else 0


def _batch(model: LanguageModel, queries: Sequence[Query], tokens: int) -> list[Response]:
    reader, most = _reader(model, queries[0]), max(tokens, _longest(queries[0]))
    texts = continuations(reader, [query.ask for query in queries], limits=[most] * len(queries))
    scores = score(reader, _pairs(queries))

    def cost(pair: Pair) -> CandidateCost:
        count = len(reader.encode(pair.prompt, target=pair.candidate).target_ids)
        return CandidateCost(mean=scores[pair].nll, tokens=count)

    return [
        Response(text=text.strip(), costs=tuple(map(cost, _pairs([query]))))
        for query, text in zip(queries, texts, strict=True)
    ]


def _pairs(queries: Sequence[Query]) -> list[Pair]:
    return [Pair(query.score, name) for query in queries for name in query.candidates]


class ReportProbe(BaseModel):
    """A prompt to look at: what should be said after it, and what is compared with that.

    ``ask`` is what the model continues (a question in its few-shot form); ``score`` what the answer is scored after.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    prompt: str
    ask: str
    score: str
    wanted: str
    unwanted: str | None = None
    aliases: tuple[str, ...] = ()
    chat: bool = False

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``chat`` where it is false, as earlier versions wrote it."""
        found: dict[str, Any] = dump(self)
        return {name: value for name, value in found.items() if value or name != "chat"}

    @property
    def query(self) -> Query:
        """What a model is asked: the wanted candidate first, then the unwanted one if there is one."""
        candidates = tuple(filter(None, (self.wanted, self.unwanted)))
        return Query(ask=self.ask, score=self.score, candidates=candidates, chat=self.chat)


class Reading(BaseModel):
    """What a model does with a probe: its greedy continuation, and the wanted answer's nats a token.

    ``said``: the continuation begins with the wanted target; in chat form its first sentence mentions it, as the text
    does for what follows. ``right``: the
    whole wanted target is more likely than the whole other one (log-probabilities summed over its tokens, where
    CounterFact's metrics take their mean), whether it is said or not; where there is no other one, as said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    nats: float
    said: bool
    right: bool


class ReportRow(BaseModel):
    """A probe before and after the patch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edit: str
    probe: ReportProbe
    before: Reading
    after: Reading


def probes(model: LanguageModel, edit: Edit, *, chat: bool | None = None) -> tuple[ReportProbe, ...]:
    """All that an edit's row asks to check; after a line break where ``model`` would not read the subject.

    ``chat``: in chat form, or in plain text; None: as the edit is made. One that is made in both forms is asked in
    plain text, and its own prompt in chat form besides, as a paraphrase.
    """
    in_chat = [probe.model_copy(update={"chat": True}) for probe in _probes(edit, (edit.text, *edit.paraphrases))]
    if edit.forms[0] if chat is None else chat:
        return tuple(in_chat)
    own = [lead_before(model, text, subject=edit.subject) + text for text in (edit.text, *edit.paraphrases)]
    first, *others = _probes(edit, own)
    both = chat is None and len(edit.forms) > 1
    return (first, *([in_chat[0].model_copy(update={"kind": "paraphrase"})] if both else ()), *others)


def _probes(edit: Edit, own: Sequence[str]) -> tuple[ReportProbe, ...]:
    new, old = edit.target_new, edit.target_true
    return (
        _statement("rewrite", own[0], new, old),
        *(_statement("paraphrase", prompt, new, old) for prompt in own[1:]),
        *(
            ReportProbe(
                kind="follows",
                prompt=question.question,
                ask=format_question_with_shots(question.question),
                score=format_question(question.question),
                wanted=question.answer,
                aliases=right_answers(question),
            )
            for question in edit.portability
        ),
        *(_statement("neighbour", prompt, old, new) for prompt in edit.neighborhood if old),
    )


def check_probes(model: LanguageModel, edits: Sequence[Edit], *, chat: bool | None = None) -> None:
    """Encode every probe once, so that a prompt that can't be scored is known before an edit is computed.

    A note at the error names the edit.

    Raises:
        PromptError: a prompt's end and what should follow it can't be told apart.
        ModelError: a prompt and what follows it don't fit into the model's positions.
    """
    for edit in edits:
        try:
            check_queries(model, [probe.query for probe in probes(model, edit, chat=chat)], tokens=_TOKENS)
        except KgEditError as error:
            error.add_note(f"in a prompt of the edit {edit.id!r}")
            raise


def before_and_after(
    model: LanguageModel, patch: Patch, edits: Sequence[Edit], *, chat: bool | None = None, progress: bool = False
) -> tuple[ReportRow, ...]:
    """Every probe of every edit, on the model without and with the one patch; ``chat`` as of `probes`."""
    asked_of = [(edit, probe) for edit in edits for probe in probes(model, edit, chat=chat)]
    before = read(model, [probe for _, probe in asked_of], progress="before" if progress else None)
    with patch.applied(model) as edited:
        after = read(edited, [probe for _, probe in asked_of], progress="after" if progress else None)
    return tuple(
        ReportRow(edit=edit.id, probe=probe, before=old, after=new)
        for (edit, probe), old, new in zip(asked_of, before, after, strict=True)
    )


def read(model: LanguageModel, wanted: Sequence[ReportProbe], *, progress: str | None = None) -> tuple[Reading, ...]:
    """What the model as it stands does with each probe; ``progress`` is the title of a progress bar.

    Raises:
        PromptError, ModelError: as of `responses`.
    """
    found = responses(model, [probe.query for probe in wanted], tokens=_TOKENS, progress=progress)
    return tuple(map(_reading, wanted, found))


def _statement(kind: Kind, prompt: str, wanted: str | None, unwanted: str | None) -> ReportProbe:
    text = prompt.rstrip()
    shown = text.replace("\n", "\\n")  # a cell of a table is one line
    return ReportProbe(kind=kind, prompt=shown, ask=text, score=text, wanted=wanted or "", unwanted=unwanted)


def _reading(probe: ReportProbe, response: Response) -> Reading:
    said = _said(probe, response.text)
    wanted, *unwanted = response.costs
    right = wanted.total < unwanted[0].total if unwanted else said
    return Reading(text=response.text, nats=round(wanted.mean, 4), said=said, right=right)


def _said(probe: ReportProbe, text: str) -> bool:
    if probe.kind == "follows":
        return any(mentions(text, name) for name in probe.aliases or (probe.wanted,))
    if probe.chat:
        return mentions(first_sentence(text), probe.wanted)
    return begins_with(text, probe.wanted)
