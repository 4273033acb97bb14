"""Ask a model the prompts of edits, without and with a patch, and judge its answers.

The report, `patch check` and the served page use this module. `responses` asks a model queries: how it continues a
prompt, and how probable the candidates are after it. `read` asks the probes of an edit (the rewrite, its paraphrases,
what follows from it, and its neighbours) and judges the responses; `before_and_after` does so without and with a patch.
`kg_edit.reports.report` shows the outcome.
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
from kg_edit.scoring.generation import CUT, continuations, room_for
from kg_edit.scoring.likelihood import Pair, check_lengths, score
from kg_edit.scoring.questions import format_question, format_question_with_shots, right_answers
from kg_edit.text.matching import begins_with, first_sentence, mentions

Kind = Literal["rewrite", "paraphrase", "follows", "neighbour"]
_TOKENS = 10  # to write after a probe, or more for a longer target
_CHAT_TOKENS = 24  # in chat form: a sentence
_ROWS = 32  # queries in a batch; all prompts of a long file at once would fill the memory


@dataclass(frozen=True, kw_only=True)
class Query:
    """``ask`` is the text that the model continues; ``candidates`` are scored after the prompt ``score``.

    With ``chat``, both texts are a user's turn.
    """

    ask: str
    score: str
    candidates: tuple[str, ...]
    chat: bool = False


@dataclass(frozen=True, kw_only=True)
class CandidateCost:
    """-log p of a candidate after a prompt, in nats: ``mean`` is the mean over its ``tokens`` tokens."""

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
    """A model's response to a query: its greedy continuation, and the cost of each candidate."""

    text: str
    costs: tuple[CandidateCost, ...]


def check_queries(model: LanguageModel, queries: Sequence[Query], *, tokens: int) -> None:
    """Encode every query, to find a query that can't be asked before an edit is computed.

    Raises:
        PromptError: a prompt's end and a candidate can't be separated.
        ModelError: a prompt with a candidate, or with the text after it, does not fit into the model's positions.
        ChatTemplateError: a query is in chat form, and the tokenizer has no chat template.
    """
    for query in queries:
        reader = _reader(model, query)
        check_lengths(model, [reader.encode(query.score, target=name) for name in query.candidates])
        check_lengths(model, [reader.encode(query.ask)], more=_limit(reader, query, tokens))


def responses(
    model: LanguageModel, queries: Sequence[Query], *, tokens: int, progress: str | None = None
) -> tuple[Response, ...]:
    """Ask the model, in its present state, each query; texts have ``tokens`` tokens, or fewer if they end earlier.

    Texts may be longer where a candidate has more tokens, and in chat form: a sentence, which contains the answer
    somewhere. ``progress`` is the title of a progress bar.

    Raises:
        PromptError: a prompt's end and a candidate can't be separated.
        ModelError: the model's output is not finite, or a query does not fit into its positions.
    """
    found: dict[int, Response] = {}
    hidden = None if progress else True  # None: tqdm shows the bar on a terminal only
    with tqdm(total=len(queries), desc=progress, unit="prompt", disable=hidden, leave=False) as bar:
        for places in _batches(queries):
            found |= zip(places, _batch(model, [queries[place] for place in places], tokens), strict=True)
            bar.update(len(places))
    return tuple(found[place] for place in range(len(queries)))


def _batches(queries: Sequence[Query]) -> Iterator[list[int]]:
    """Yield the places of queries of one form, at most `_ROWS` at a time."""
    for chat in (False, True):
        places = [place for place, query in enumerate(queries) if query.chat == chat]
        yield from (places[start : start + _ROWS] for start in range(0, len(places), _ROWS))


def _reader(model: LanguageModel, query: Query) -> LanguageModel:
    """The model in the query's form, chat or plain."""
    return model.in_chat() if query.chat else model


def _limit(model: LanguageModel, query: Query, tokens: int) -> int:
    """The largest number of tokens of a text; a candidate that does not fit could not be said."""
    rooms = (room_for(model.tokenizer, name) for name in query.candidates)
    return max(tokens, _CHAT_TOKENS if query.chat else 0, *rooms)


def _batch(model: LanguageModel, queries: Sequence[Query], tokens: int) -> list[Response]:
    reader = _reader(model, queries[0])
    limits = [_limit(reader, query, tokens) for query in queries]
    texts = [text.rstrip(CUT) for text in continuations(reader, [query.ask for query in queries], limits=limits)]
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
    """A prompt to check: the wanted answer, and optionally an unwanted one to compare with.

    The model continues ``ask`` (a question in its few-shot form); the answers are scored after ``score``.
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
        """Leave out ``chat`` if it is false, as earlier versions did."""
        found: dict[str, Any] = dump(self)
        return {name: value for name, value in found.items() if value or name != "chat"}

    @property
    def query(self) -> Query:
        """The query of the probe: the wanted candidate first, then the unwanted one if there is one."""
        candidates = tuple(filter(None, (self.wanted, self.unwanted)))
        return Query(ask=self.ask, score=self.score, candidates=candidates, chat=self.chat)


class Reading(BaseModel):
    """The judged response to a probe: the greedy continuation, and the wanted answer's ``nats`` per token.

    ``said``: the continuation begins with the wanted target. In chat form, its first sentence has to mention the
    target; for a question about what follows, the text has to mention the answer. ``right``: the whole wanted target is
    more probable than the whole other one, whether it is said or not; the log-probabilities are summed over the tokens,
    where CounterFact's metrics take their mean. If there is no other target, ``right`` equals ``said``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    nats: float
    said: bool
    right: bool


class ReportRow(BaseModel):
    """A probe with its readings before and after the patch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edit: str
    probe: ReportProbe
    before: Reading
    after: Reading


def probes(model: LanguageModel, edit: Edit, *, chat: bool | None = None) -> tuple[ReportProbe, ...]:
    """All probes of an edit's row; a prompt gets a line break in front if ``model`` would not read its subject.

    ``chat``: in chat form, or in plain text; None: in the form in which the edit is made. An edit that is made in both
    forms is asked in plain text; its own prompt is also asked in chat form, as a paraphrase.
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
    """Encode every probe once, to find a prompt that can't be scored before an edit is computed.

    A note on the error names the edit.

    Raises:
        PromptError: a prompt's end and the text after it can't be separated.
        ModelError: a prompt and the text after it do not fit into the model's positions.
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
    """Read every probe of every edit on the model without and with the patch; ``chat`` as in `probes`."""
    asked_of = [(edit, probe) for edit in edits for probe in probes(model, edit, chat=chat)]
    before = read(model, [probe for _, probe in asked_of], progress="before" if progress else None)
    with patch.applied(model) as edited:
        after = read(edited, [probe for _, probe in asked_of], progress="after" if progress else None)
    return tuple(
        ReportRow(edit=edit.id, probe=probe, before=old, after=new)
        for (edit, probe), old, new in zip(asked_of, before, after, strict=True)
    )


def read(model: LanguageModel, wanted: Sequence[ReportProbe], *, progress: str | None = None) -> tuple[Reading, ...]:
    """Read each probe on the model in its present state; ``progress`` is the title of a progress bar.

    Raises:
        PromptError, ModelError: as in `responses`.
    """
    found = responses(model, [probe.query for probe in wanted], tokens=_TOKENS, progress=progress)
    return tuple(map(_reading, wanted, found))


def _statement(kind: Kind, prompt: str, wanted: str | None, unwanted: str | None) -> ReportProbe:
    text = prompt.rstrip()
    shown = text.replace("\n", "\\n")  # a table cell has one line
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
