"""The verdict of an edit run: which edits succeeded, why others failed, and what helps.

An edit succeeds if the edited model's greedy text after its own prompt begins with the target, as in the report's
table. The counts of other prompts (`kg_edit.reports.counts`) also compare probabilities. A failed edit that was also
made alone (`kg_edit.reports.retry`) is known to fail only together with the others, or always.

`Verdict.of` judges the rows (`edit_results`); what helps is in `advice`. The functions that shorten texts come last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kg_edit.patches.walks import ShownWalk
from kg_edit.reports.advice import NAMED, JudgedRun, advise, find_way
from kg_edit.reports.counts import Count, count_rows
from kg_edit.reports.edit_results import EditDetails, EditResult, judge_edits, judge_neighbor, judge_prompt
from kg_edit.reports.rows import ProbeKind, ReportRow

VERDICT = "report.json"
_LONG_TEXT = 100  # characters of a text in a verdict; the table has all of it


class AnswerWalk(BaseModel):
    """A prompt of an edit, what the edited model generates after it, and the walk that led there."""

    model_config = ConfigDict(frozen=True)

    edit: str
    kind: ProbeKind
    prompt: str
    generated: str
    walk: ShownWalk


class Verdict(JudgedRun):
    """The results of all edits of a run: "4 of 5 edits succeeded; 1 failed: row-3 (…)", and `remarks`.

    Attributes:
        edits: the results, in the order of the edits.
        counts: how many prompts are right, under "paraphrases", "portability" and "locality" (the neighborhood
            prompts); and how many of those that should not change did not (`count_unchanged`), under "locality prompts"
            (the edits' field ``locality``), "prompts" (of a file) and "unrelated prompts".
        paraphrases: the results of the edits' paraphrases.
        neighborhood: the results of the edits' neighborhood prompts (`judge_neighbor`).
        walks: the walk of each answer, if the patch makes walks (`graph-memory`).
        advice: a line for each cause of a failure, with a method that may help (`kg_edit.reports.advice.advise`).
        commands: the commands of the best way to make the failed edits: one that makes all edits anew, or four that
            make the failed ones by another method on top of the others; () if there is no such way.
    """

    edits: tuple[EditResult, ...]
    counts: dict[str, Count] = Field(default_factory=dict)
    paraphrases: tuple[EditResult, ...] = Field((), exclude=True)  # as in records.jsonl
    neighborhood: tuple[EditResult, ...] = Field((), exclude=True)
    walks: tuple[AnswerWalk, ...] = Field((), exclude_if=lambda walks: not walks)
    advice: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        rows: Sequence[ReportRow],
        *,
        run: JudgedRun | None = None,
        details: Mapping[str, EditDetails] | None = None,
        unchanged: Mapping[str, Count] | None = None,
    ) -> Verdict:
        """Return the verdict over the rows of a report.

        Args:
            rows: the rows of the report.
            run: the run that the rows are of; without it, the verdict has no commands.
            details: what is known of each edit besides its rows, by id.
            unchanged: the counts of the prompts that should not change.
        """
        run = run or JudgedRun()
        counts = count_rows(rows)
        if unchanged is not None:
            counts |= unchanged
        edits = judge_edits(rows, details or {})
        commands: tuple[str, ...] = ()
        way = find_way(run, edits)
        if way is not None:
            commands = way.commands
        return cls(
            **dict(run),  # all its fields
            edits=edits,
            counts=counts,
            paraphrases=tuple(judge_prompt(row) for row in rows if row.probe.kind == "paraphrase"),
            neighborhood=tuple(judge_neighbor(row) for row in rows if row.probe.kind == "locality"),
            walks=_collect_walks(rows),
            advice=advise(run, edits),
            commands=commands,
        )

    def with_prompts_of(self, rows: Sequence[ReportRow]) -> Verdict:
        """Return the verdict with the results of paraphrases and neighborhood prompts, which report.json leaves out."""
        judged = Verdict.of(rows)
        return self.model_copy(update={"paraphrases": judged.paraphrases, "neighborhood": judged.neighborhood})

    @property
    def succeeded(self) -> tuple[EditResult, ...]:
        """The edits after which the model generates the target."""
        return tuple(result for result in self.edits if result.succeeded)

    @property
    def failed(self) -> tuple[EditResult, ...]:
        """The other edits."""
        return tuple(result for result in self.edits if not result.succeeded)

    @property
    def spoiled(self) -> tuple[EditResult, ...]:
        """The failed edits that succeed when they are made alone: the other edits of the run spoil them."""
        return tuple(result for result in self.edits if result.is_spoiled)

    @property
    def counted(self) -> str:
        """The verdict without the failed edits: "4 of 5 edits succeeded"."""
        return f"{len(self.succeeded)} of {len(self.edits)} edits succeeded"

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader is told besides the verdict.

        How many questions are right, and after which edits fewer are; how many paraphrases failed and how many
        neighborhood prompts changed, and the first of them; the advice.
        """
        lines = []
        if "portability" in self.counts:
            lines.append(self._portability)
        lines += _count_failures(f"paraphrases failed ({self._missed_paraphrases})", self.paraphrases)
        lines += _count_failures("neighborhood prompts changed", self.neighborhood)
        return (*lines, *self.advice)

    @property
    def _missed_paraphrases(self) -> str:
        """What became of the target after the paraphrases that failed."""
        failed = [result for result in self.paraphrases if not result.succeeded]
        likelier = sum(result.likelier for result in failed)
        if not likelier:
            return "the target is not generated"
        return f"the target is not generated, though after {likelier} of them it is more likely than the old object"

    @property
    def _portability(self) -> str:
        """How many questions are right, with the edits that lost some: "1 → 0 of 6 …; fewer after row-2 (…)"."""
        line = f"{self.counts['portability']} portability questions are right"
        fewer = []
        for result in self.edits:
            count = result.counts.get("portability")
            if count is not None and count.fell:
                fewer.append(f"{result.edit} ({count})")
        if fewer:
            line += f"; fewer after {', '.join(fewer[:NAMED])}"
        if len(fewer) > NAMED:
            line += f" and {len(fewer) - NAMED} more"
        return line

    @classmethod
    def beside(cls, patch: Path) -> Verdict | None:
        """Return the verdict of the run that wrote a patch file; None if its folder has none that can be read.

        A field that is not in the file, such as ``paraphrases`` or ``method``, has its default value.
        """
        try:
            return cls.model_validate_json((patch.parent / VERDICT).read_bytes())
        except (OSError, ValidationError):
            return None

    def __str__(self) -> str:
        if not self.failed:
            return self.counted
        cases = []
        for result in self.failed:
            prompt = repr(_cut(result.prompt))
            if result.both and result.chat:  # made in both forms: say which of them is worse
                prompt += ", in chat form"
            target, text = _show_difference(result.target, result.generated)
            likelier = ""
            if result.likelier:
                likelier = ", though the target is more likely than the old one"
            cases.append(f"{result.edit} ({prompt}: target {target!r}, generated {text!r}{likelier})")
        return f"{self.counted}; {len(self.failed)} failed: {_enumerate(cases)}"


def _collect_walks(rows: Sequence[ReportRow]) -> tuple[AnswerWalk, ...]:
    """Return the walk of each answer of the edited model; () if its patch makes no walks."""
    walks = []
    for row in rows:
        if row.edited.walk is None:
            continue
        walk = AnswerWalk(
            edit=row.edit,
            kind=row.probe.kind,
            prompt=row.probe.prompt,
            generated=row.edited.text,
            walk=row.edited.walk,
        )
        walks.append(walk)
    return tuple(walks)


def _count_failures(title: str, results: Sequence[EditResult]) -> list[str]:
    """Return a line about the results that failed: "1 of 4 paraphrases failed (…): row-2 (…)"; [] if none did."""
    cases = []
    for result in results:
        if not result.succeeded:
            prompt = _cut(result.prompt)
            text = _cut(result.generated)
            cases.append(f"{result.edit} ({prompt!r}: generated {text!r})")
    if not cases:
        return []
    return [f"{len(cases)} of {len(results)} {title}: {_enumerate(cases)}"]


def _cut(text: str) -> str:
    """Return at most `_LONG_TEXT` characters of a text; where more follow, the last one is "…"."""
    if len(text) <= _LONG_TEXT:
        return text
    return f"{text[: _LONG_TEXT - 1]}…"


def _show_difference(target: str, generated: str) -> tuple[str, str]:
    """Shorten two texts so that both show the first place where they differ."""
    same = 0  # the number of characters with which both begin
    while same < min(len(target), len(generated)) and target[same] == generated[same]:
        same += 1
    if same <= _LONG_TEXT // 2:
        return _cut(target), _cut(generated)
    start = same - _LONG_TEXT // 4
    return _cut(f"…{target[start:]}"), _cut(f"…{generated[start:]}")


def _enumerate(cases: Sequence[str]) -> str:
    """Return descriptions of edits in one line, at most `NAMED` of them: "…; …; and 3 more"."""
    line = "; ".join(cases[:NAMED])
    if len(cases) > NAMED:
        line += f"; and {len(cases) - NAMED} more"
    return line
