"""What a patch changed, prompt by prompt: the rewrite, its paraphrases, what follows, and the neighbours.

Before and after as a table: for the terminal, and as Markdown.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from kg_edit.edits.edit import Edit
from kg_edit.errors import KgEditError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.likelihood import Pair, check_lengths, score
from kg_edit.scoring.questions import format_question, format_question_with_shots, right_answers
from kg_edit.text.matching import begins_with, mentions

Kind = Literal["rewrite", "paraphrase", "follows", "neighbour"]
_TOKENS, _ROWS = 10, 32


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


class Reading(BaseModel):
    """What a model does with a probe: its greedy continuation, and the wanted answer's nats a token.

    ``said``: the continuation begins with the wanted target; for what follows, it mentions the answer. ``right``: the
    whole wanted target is more likely than the whole other one (log-probabilities summed over its tokens, where
    CounterFact's metrics take their mean), whether it is said or not; where there is no other one, as said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    nats: float
    said: bool
    right: bool


class _Cost(NamedTuple):
    """Nats a token of a candidate, and how many tokens it has."""

    mean: float
    tokens: int

    @property
    def total(self) -> float:
        """-log p of the whole candidate."""
        return self.tokens * self.mean


class ReportRow(BaseModel):
    """A probe before and after the patch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edit: str
    probe: ReportProbe
    before: Reading
    after: Reading


def probes(edit: Edit) -> tuple[ReportProbe, ...]:
    """All that an edit's row asks to check."""
    new, old = edit.target_new, edit.target_true
    return (
        _statement("rewrite", edit.text, new, old),
        *(_statement("paraphrase", prompt, new, old) for prompt in edit.paraphrases),
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


def check_probes(model: LanguageModel, edits: Sequence[Edit]) -> None:
    """Encode every probe once, so that a prompt that can't be scored is known before an edit is computed.

    A note at the error names the edit.

    Raises:
        PromptError: a prompt's end and what should follow it can't be told apart.
        ModelError: a prompt and what follows it don't fit into the model's positions.
    """
    for edit in edits:
        asked = probes(edit)
        try:
            pairs = [model.encode(pair.prompt, target=pair.candidate) for pair in _pairs(asked)]
            check_lengths(model, pairs)
            check_lengths(model, [model.encode(probe.ask) for probe in asked], more=_TOKENS)
        except KgEditError as error:
            error.add_note(f"in a prompt of the edit {edit.id!r}")
            raise


def before_and_after(
    model: LanguageModel, patch: Patch, edits: Sequence[Edit], *, progress: bool = False
) -> tuple[ReportRow, ...]:
    """Every probe of every edit, on the model without and with the one patch."""
    asked_of = [(edit, probe) for edit in edits for probe in probes(edit)]
    before = read(model, [probe for _, probe in asked_of], progress="before" if progress else None)
    with patch.applied(model) as edited:
        after = read(edited, [probe for _, probe in asked_of], progress="after" if progress else None)
    return tuple(
        ReportRow(edit=edit.id, probe=probe, before=old, after=new)
        for (edit, probe), old, new in zip(asked_of, before, after, strict=True)
    )


def read(model: LanguageModel, wanted: Sequence[ReportProbe], *, progress: str | None = None) -> tuple[Reading, ...]:
    """What the model as it stands does with each probe; ``progress`` is the title of a progress bar."""
    readings: list[Reading] = []
    shown = None if progress else True  # None: on a terminal
    with tqdm(total=len(wanted), desc=progress, unit="prompt", disable=shown, leave=False) as bar:
        for start in range(0, len(wanted), _ROWS):  # a batch of all prompts of a long file would fill the memory
            readings += _read_batch(model, wanted[start : start + _ROWS])
            bar.update(len(readings) - start)
    return tuple(readings)


def _read_batch(model: LanguageModel, wanted: Sequence[ReportProbe]) -> Iterator[Reading]:
    texts = continuations(model, [probe.ask for probe in wanted], limits=[_TOKENS] * len(wanted))
    costs = {pair: _Cost(scores.nll, _tokens(model, pair)) for pair, scores in score(model, _pairs(wanted)).items()}
    return (_reading(probe, text, costs) for probe, text in zip(wanted, texts, strict=True))


def _tokens(model: LanguageModel, pair: Pair) -> int:
    return len(model.encode(pair.prompt, target=pair.candidate).target_ids)


def _pairs(wanted: Sequence[ReportProbe]) -> list[Pair]:
    return [Pair(probe.score, name) for probe in wanted for name in (probe.wanted, probe.unwanted) if name]


def _statement(kind: Kind, prompt: str, wanted: str | None, unwanted: str | None) -> ReportProbe:
    text = prompt.rstrip()
    return ReportProbe(kind=kind, prompt=text, ask=text, score=text, wanted=wanted or "", unwanted=unwanted)


def _reading(probe: ReportProbe, text: str, costs: dict[Pair, _Cost]) -> Reading:
    own = costs[Pair(probe.score, probe.wanted)]
    said = _said(probe, text)
    right = said if probe.unwanted is None else own.total < costs[Pair(probe.score, probe.unwanted)].total
    return Reading(text=text.strip(), nats=round(own.mean, 4), said=said, right=right)


def _said(probe: ReportProbe, text: str) -> bool:
    if probe.kind == "follows":
        return any(mentions(text, name) for name in probe.aliases or (probe.wanted,))
    return begins_with(text, probe.wanted)


_TITLES = {"rewrite": "rewrite", "paraphrase": "paraphrase", "follows": "what follows", "neighbour": "neighbour"}
_HEADER = ("", "prompt", "should say", "before", "after", "nats/token")
_SHORT_HEADER = ("", "prompt", "wanted", "before", "after", "nats")
_COLOURS = {"✓": "green", "~": "yellow", "✗": "red"}
_NOTE = (
    "✓: the text begins with what should be said, which is also more likely than the other target; for what follows, "
    "the answer is in the text. ~: it is more likely than the other target, but not said. ✗: anything else. "
    "Nats a token of what should be said, before → after: less is better."
)


# Line and paragraph separators, and control characters, line breaks among them.
_HARMLESS = {"Zl": " ", "Zp": " ", "Cc": " "}
_OVERRIDES = re.compile("[\u202a-\u202e\u2066-\u2069]")


def terminal_table(rows: Sequence[ReportRow]) -> Table:
    """A rich table, a section an edit."""
    table = Table(title="before → after", caption=_NOTE, caption_justify="left", expand=True, box=SIMPLE_HEAD)
    for name, share in zip(_SHORT_HEADER, (None, 6, 4, 5, 5, None), strict=True):
        table.add_column(name, ratio=share, no_wrap=share is None, overflow="fold")
    for index, row in enumerate(rows):
        last = index + 1 == len(rows) or rows[index + 1].edit != row.edit
        cells = [Text(row.probe.kind), *map(Text, _cells(row)[1:])]
        cells[4].stylize(_COLOURS[_sign(row.after)])
        table.add_row(*cells, end_section=last)
    return table


def markdown(rows: Sequence[ReportRow], patch: Patch) -> str:
    """The same as Markdown, under a line that says what was done."""
    methods = ", ".join(sorted({str(edit["method"]) for edit in patch.provenance["edits"]}))
    ranks = patch.summary
    count = len(patch.provenance["edits"])
    title = f"{count} edit{'s' if count > 1 else ''} of {patch.provenance['model']['name']} by {methods}"
    lines = [f"# {_escaped(one_line(title))}", "", _escaped(ranks), ""]
    lines += ["| " + " | ".join(_HEADER) + " |", "|---" * len(_HEADER) + "|"]
    lines += ["| " + " | ".join(_escaped(cell) for cell in _cells(row)) + " |" for row in rows]
    return "\n".join([*lines, "", _escaped(_NOTE), ""])


def _cells(row: ReportRow) -> tuple[str, ...]:
    probe = row.probe
    nats = f"{row.before.nats:.1f} → {row.after.nats:.1f}"
    cells = (_TITLES[probe.kind], probe.prompt, probe.wanted, _mark(row.before), _mark(row.after), nats)
    return tuple(one_line(cell).strip() for cell in cells)


def _mark(reading: Reading) -> str:
    return f"{_sign(reading)} {reading.text}"


def _sign(reading: Reading) -> str:
    """``~``, likelier but not said, is for statements with another target only: elsewhere right is said."""
    if not reading.right:
        return "✗"
    return "✓" if reading.said else "~"


def one_line(text: str) -> str:
    """``text`` without what would move a terminal's cursor, break a line, or turn the text around it.

    Scripts that run from right to left stay as they are, joiners too; only control characters go.
    """
    return "".join(_HARMLESS.get(unicodedata.category(letter), letter) for letter in _OVERRIDES.sub("", text))


def _escaped(cell: str) -> str:
    """The same letters as Markdown, whatever they are: a backslash before all that could mean something there."""
    return re.sub(r"([\\`*_\[\]<>|~$&#])", r"\\\1", cell)
