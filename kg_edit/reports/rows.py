"""The rows of the report of `kg-edit edit`: a probe of an edit, and what the unedited and the edited model answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from kg_edit.edits.edit import Edit
from kg_edit.languages import ENGLISH
from kg_edit.patches.walks import ShownWalk
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.judging import generates, is_likeliest, tidy_text
from kg_edit.scoring.pairs import Pair
from kg_edit.scoring.requests import STATEMENT_TOKENS, Continued, Requests
from kg_edit.text.matching import mentions

# The kind "locality" has prompts that should not change. In the report these are the edit's neighborhood prompts; the
# prompts of its field ``locality`` are probes only of `locality_probes` (`kg-edit patch check`).
ProbeKind = Literal["rewrite", "paraphrase", "portability", "locality"]
RECORDS = "records.jsonl"  # the file of a run with its rows
LINE_BREAK = "↵"  # in a prompt that is shown


class ReportProbe(BaseModel):
    """A prompt to check: the wanted answer, and optionally an unwanted one to compare with.

    The names of the fields are those in records.jsonl.

    Attributes:
        kind: what the prompt is for the edit.
        prompt: the prompt as it is shown.
        ask: the text that the model continues: of a question its few-shot form, else the prompt.
        score: the text after which the likelihood of the answers is computed.
        wanted: the wanted answer.
        unwanted: the answer to compare with; None: there is none.
        aliases: all right answers, ``wanted`` too; (): only ``wanted``.
        chat: whether the prompt is asked in chat form.
        several_lines: whether the model reads on over line breaks, as `kg-edit evaluate` does after a prompt whose
            target is a paragraph.
        language: the language of the texts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ProbeKind
    prompt: str
    ask: str
    score: str
    wanted: str
    unwanted: str | None = None
    aliases: tuple[str, ...] = ()
    chat: bool = False
    several_lines: bool = False
    language: str = Field(ENGLISH, exclude_if=lambda code: code == ENGLISH)

    @property
    def requests(self) -> Requests:
        """What a model is asked: to continue ``ask``, and the likelihood of both answers after ``score``."""
        candidates = [self.wanted]
        if self.unwanted:
            candidates.append(self.unwanted)
        text = Continued(
            prompt=self.ask, least=STATEMENT_TOKENS, answers=tuple(candidates), several_lines=self.several_lines
        )
        pairs = [Pair(self.score, name) for name in candidates]
        return Requests(continued=(text,), pairs=tuple(pairs), chat=self.chat)

    def is_answered(self, text: str) -> bool:
        """Return whether a continuation has the wanted answer, as in `Reading`."""
        names = self.aliases or (self.wanted,)
        if self.kind == "portability":
            return any(mentions(text, name) for name in names)
        in_a_sentence = self.chat and not self.several_lines  # a paragraph is never in one sentence
        return any(generates(text, name, chat=in_a_sentence) for name in names)


class Reading(BaseModel):
    """The judged response to a probe: the greedy continuation, and the wanted answer's ``nats`` per token.

    ``success``: the continuation begins with the wanted answer. In chat form, its first sentence has to mention the
    answer, unless that is a paragraph; for a portability question, the text has to mention it. ``right``: the whole
    wanted answer is more probable than the whole unwanted one, whether it is generated or not; the log-probabilities
    are summed over the tokens, where CounterFact's metrics take their mean. If there is no unwanted answer, ``right``
    equals ``success``. ``walk``: the statements of a graph that `graph-memory` put before the prompt; None if the model
    has no such patch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    nats: float
    success: bool
    right: bool
    walk: ShownWalk | None = Field(None, exclude_if=lambda walk: walk is None)

    @classmethod
    def of(cls, probe: ReportProbe, evidence: Evidence) -> Reading:
        """Judge a model's answers to a probe."""
        text = tidy_text(evidence.texts[probe.ask])
        success = probe.is_answered(text)
        wanted = evidence.scores[Pair(probe.score, probe.wanted)]
        right = success
        if probe.unwanted:
            right = is_likeliest(wanted, [evidence.scores[Pair(probe.score, probe.unwanted)]])
        walk = evidence.walks.get(probe.ask)
        return cls(text=text, nats=round(wanted.nll, 4), success=success, right=right, walk=walk)

    @property
    def grade(self) -> tuple[bool, bool]:
        """(success, right), by which readings are compared: a success is better, and of two alike the right one."""
        return self.success, self.right


class ReportRow(BaseModel):
    """A probe of an edit with its readings on the unedited and on the edited model; a line of ``records.jsonl``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    edit: str
    probe: ReportProbe
    unedited: Reading
    edited: Reading


def known_rows(path: Path, edits: Sequence[Edit]) -> tuple[ReportRow, ...]:
    """Return the rows of an earlier run of these edits from its ``records.jsonl``; () if it did not get that far."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        rows = tuple(ReportRow.model_validate_json(line) for line in lines if line)
    except (OSError, ValueError):
        return ()
    if {row.edit for row in rows} != {edit.id for edit in edits}:
        return ()
    return rows


def find_worst(rows: Sequence[ReportRow]) -> ReportRow:
    """Return the row of an edit's own prompt with the lowest `Reading.grade`, the first of equals.

    An edit that is made in plain text and in chat form is asked in both: it is as good as its worst answer.
    """
    return min(rows, key=lambda row: row.edited.grade)
