"""The verdict of an edit run: which edits succeeded, why others failed, and what helps.

`Verdict` is read from `Verdict.of` to `Verdict.commands`. The functions above it shorten and join texts.

Every number comes from greedy decoding of the edits' own prompts, as in the report's table. A failed edit that was also
made alone (`kg_edit.reports.retry`) is known to fail only together with the others, or always.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from kg_edit.reports.counts import Count, count_rows
from kg_edit.reports.rows import ReportRow

VERDICT = "report.json"
FAILED = "failed.jsonl"
LONG = 12  # tokens of a target above which one value rarely suffices (docs/limits.md)
# Methods that the advice names
_ROME_LONG = "rome --preset long"
_GRACE = "grace"
_IKE = "ike"
_RAG = "rag"
_PARAGRAPH = "ft-m --set steps=100"  # a paragraph takes more steps
_AT_ONCE = "alphaedit"  # makes all edits at once
_PAGE = "docs/limits.md#edits-that-fail"
_NAMED = 10  # edits that a line names, at most
_LONG_TEXT = 100  # characters of a text in a verdict; the table has all of it


def _cut(text: str) -> str:
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


def _ids(results: Sequence[EditResult]) -> str:
    """Return the ids of edits, at most `_NAMED` of them: "row-1, row-2 and 3 more"."""
    ids = ", ".join(result.edit for result in results[:_NAMED])
    if len(results) > _NAMED:
        ids += f" and {len(results) - _NAMED} more"
    return ids


def _enumerate(cases: Sequence[str]) -> str:
    """Return descriptions of edits in one line, at most `_NAMED` of them: "…; …; and 3 more"."""
    line = "; ".join(cases[:_NAMED])
    if len(cases) > _NAMED:
        line += f"; and {len(cases) - _NAMED} more"
    return line


class EditResult(BaseModel):
    """What became of one edit.

    Attributes:
        edit: the edit's id.
        prompt: its prompt.
        target: what the model should generate after it.
        generated: what the edited model generates.
        succeeded: whether that begins with the target.
        likelier: whether the target is more likely than the old object.
        known: whether the unedited model generates the target, so that there was nothing to edit.
        tokens: the number of the target's tokens; None: not counted.
        alone: of a failed edit, whether it succeeds when it is made alone; None: it was not tried.
        counts: how many of its paraphrases, questions and neighborhood prompts are right, by kind.
        subject: its subject.
        paragraph: whether the target is a ``target_text``.
        both: whether the edit is made in both forms; it succeeds in both, or the others are those of a form that fails.
        chat: whether the prompt is asked in chat form.
    """

    model_config = ConfigDict(frozen=True)

    edit: str
    prompt: str
    target: str
    generated: str
    succeeded: bool
    likelier: bool
    known: bool
    tokens: int | None = None
    alone: bool | None = None
    counts: dict[str, Count] = {}
    subject: str = Field("", exclude=True)  # for the advice, which is written
    paragraph: bool = Field(False, exclude=True)
    both: bool = Field(False, exclude=True)
    chat: bool = Field(False, exclude=True)

    @property
    def is_long(self) -> bool:
        """Whether the target has more tokens than one value usually suffices for; false if they were not counted."""
        return self.tokens is not None and self.tokens > LONG


class _Cause(NamedTuple):
    """What was seen of some failed edits, and the methods that may make them."""

    results: Sequence[EditResult]
    seen: str
    ways: Sequence[str]

    def __str__(self) -> str:
        line = f"{_ids(self.results)}: {self.seen}"
        if self.ways:
            options = [f"--method {way}" for way in self.ways]
            line += f"; {' or '.join(options)} may make it"
        return line


def _join_forms(results: Sequence[EditResult]) -> EditResult:
    """Return the one result of an edit. An edit in both forms is asked twice; its result is the worse of the two."""
    joint, *others = results
    for other in others:
        worse = joint
        if joint.succeeded:
            worse = other
        joint = worse.model_copy(update={"both": True, "known": joint.known and other.known})
    return joint


def _lost(row: ReportRow) -> bool:
    """Return whether the unedited model generates or prefers the target and the edited model does not."""
    stopped_generating = row.unedited.success and not row.edited.success
    stopped_preferring = row.unedited.right and not row.edited.right
    return stopped_generating or stopped_preferring


def _judge(row: ReportRow) -> EditResult:
    """Return what became of one prompt."""
    return EditResult(
        edit=row.edit,
        prompt=row.probe.prompt,
        target=row.probe.wanted,
        generated=row.edited.text,
        succeeded=row.edited.success,
        likelier=row.edited.right,
        known=row.unedited.success,
        paragraph=row.probe.several_lines,
        chat=row.probe.chat,
    )


def _judge_edits(
    rows: Sequence[ReportRow], *, subjects: Mapping[str, str], tokens: Mapping[str, int], alone: Mapping[str, bool]
) -> tuple[EditResult, ...]:
    """Return the results of the edits' own prompts; the arguments are those of `Verdict.of`."""
    rows_by_edit = dict[str, list[ReportRow]]()
    for row in rows:
        rows_by_edit.setdefault(row.edit, []).append(row)
    edits = []
    for name, rows_of_edit in rows_by_edit.items():
        results = [_judge(row) for row in rows_of_edit if row.probe.kind == "rewrite"]
        if not results:
            continue
        result = _join_forms(results)
        further = {"subject": subjects.get(name, ""), "tokens": tokens.get(name), "counts": count_rows(rows_of_edit)}
        if not result.succeeded:
            further["alone"] = alone.get(name)
        edits.append(result.model_copy(update=further))
    return tuple(edits)


class Verdict(BaseModel):
    """The results of all edits of a run: "4 of 5 edits succeeded; 1 failed: row-3 (…)", and `remarks`.

    Attributes:
        method: the method that made the edits.
        preset: the name of the preset of its settings.
        graph: the values of ``--graph`` by which the method's graph is opened again, for the commands.
        joint: whether the method makes all edits at once, and not in sequence.
        edits: the results, in the order of the edits.
        counts: how many prompts of all edits are right, by kind, and how many of those that should not change did not.
        paraphrases: the results of the edits' paraphrases.
        neighborhood: the results of the edits' neighborhood prompts, whose target is the old object; one succeeds
            unless the unedited model generates or prefers the old object and the edited model does not.
        repeats: the edits that repeat an earlier one exactly and were not made again, (id, id of the earlier one).
        opposes: the edits with another target than an earlier edit of the same fact, (id, id of the earlier one).
        refused: the reasons why edits of the patch look as if they would break the model (`patches.guards`).
        model: the model's name, for the commands.
        experts: whether it is a mixture of experts, so that no method that reads a down-projection helps.
        folder: the folder of the run, for the commands.
    """

    model_config = ConfigDict(frozen=True)

    method: str = Field("", exclude=True)
    preset: str = Field("", exclude=True)
    graph: tuple[str, ...] = ()
    joint: bool = False
    edits: tuple[EditResult, ...]
    counts: dict[str, Count] = {}
    paraphrases: tuple[EditResult, ...] = Field((), exclude=True)  # as in records.jsonl
    neighborhood: tuple[EditResult, ...] = Field((), exclude=True)
    repeats: tuple[tuple[str, str], ...] = ()
    opposes: tuple[tuple[str, str], ...] = ()
    refused: tuple[str, ...] = Field((), exclude=True)
    model: str = Field("", exclude=True)
    experts: bool = Field(False, exclude=True)
    folder: Path = Field(Path(), exclude=True)

    @classmethod
    def of(
        cls,
        rows: Sequence[ReportRow],
        *,
        unchanged: Mapping[str, Count] | None = None,
        method: str = "",
        preset: str = "",
        graph: Sequence[str] = (),
        joint: bool = False,
        subjects: Mapping[str, str] | None = None,
        tokens: Mapping[str, int] | None = None,
        alone: Mapping[str, bool] | None = None,
        repeats: Sequence[tuple[str, str]] = (),
        opposes: Sequence[tuple[str, str]] = (),
        refused: Sequence[str] = (),
        model: str = "",
        experts: bool = False,
        folder: Path = Path(),
    ) -> Verdict:
        """Return the verdict over the rows of a report.

        Args:
            rows: the rows of the report.
            unchanged: the counts of the prompts that should not change.
            method, preset, graph, joint, refused, model, experts, folder: as the attributes.
            subjects: the subject of each edit, by id.
            tokens: the number of tokens of each edit's target, by id.
            alone: by the ids of failed edits that were also made alone, whether they then succeeded.
            repeats: as the attribute.
            opposes: as the attribute.
        """
        neighborhood = []
        for row in rows:
            if row.probe.kind == "locality":
                neighborhood.append(_judge(row).model_copy(update={"succeeded": not _lost(row)}))
        counts = count_rows(rows)
        if unchanged is not None:
            counts |= unchanged
        return cls(
            method=method,
            preset=preset,
            graph=tuple(graph),
            joint=joint,
            edits=_judge_edits(rows, subjects=subjects or {}, tokens=tokens or {}, alone=alone or {}),
            counts=counts,
            paraphrases=tuple(_judge(row) for row in rows if row.probe.kind == "paraphrase"),
            neighborhood=tuple(neighborhood),
            repeats=tuple(repeats),
            opposes=tuple(opposes),
            refused=tuple(refused),
            model=model,
            experts=experts,
            folder=folder,
        )

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
        return tuple(result for result in self.failed if result.alone)

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
        groups = {
            "paraphrases failed (the target is not generated)": self.paraphrases,
            "neighborhood prompts changed": self.neighborhood,
        }
        for title, results in groups.items():
            cases = []
            for result in results:
                if not result.succeeded:
                    prompt = _cut(result.prompt)
                    text = _cut(result.generated)
                    cases.append(f"{result.edit} ({prompt!r}: generated {text!r})")
            if cases:
                lines.append(f"{len(cases)} of {len(results)} {title}: {_enumerate(cases)}")
        return (*lines, *self.advice)

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
            line += f"; fewer after {', '.join(fewer[:_NAMED])}"
        if len(fewer) > _NAMED:
            line += f" and {len(fewer) - _NAMED} more"
        return line

    @computed_field  # type: ignore[prop-decorator] # also in report.json
    @property
    def advice(self) -> tuple[str, ...]:
        """One line for each cause: what was seen, and a method that may help; the page of `_PAGE` says why."""
        lines = []
        for cause in (*self._causes_together, *self._causes_alone):
            if cause.results:
                lines.append(str(cause))
        if self.failed:
            lines.append(f"why an edit fails, and what helps: {_PAGE}")
        if self.commands:  # a patch that was made on the unedited model would not know of the others
            lines.append(f"{_ids(self.failed)}: the four commands make it by another method on top of the others")
        if self.refused:
            lines.append(f"kg-edit patch add refuses this patch without --force: {'; '.join(self.refused)}")
        known = [result for result in self.edits if result.known]
        if known:
            lines.append(f"{_ids(known)}: the unedited model generates this target already; no edit is needed")
        for edit, first in self.repeats[:_NAMED]:
            lines.append(f"{edit} repeats {first} exactly, and was made once")
        for edit, first in self.opposes[:_NAMED]:
            lines.append(f"{edit} contradicts {first}: one fact, two targets; keep one of them")
        return tuple(lines)

    @property
    def _causes_together(self) -> list[_Cause]:
        """What was seen of the edits that the other edits of the run spoil."""
        subjects = Counter(result.subject for result in self.edits if result.subject)
        shared = [result for result in self.spoiled if subjects[result.subject] > 1]
        at_once = []
        if not self.joint and not self.experts and len(shared) < len(self.spoiled):
            at_once = [_AT_ONCE]
        one_key_each = []
        if _GRACE in self._ways(shared):
            one_key_each = [_GRACE]
        return [
            _Cause(self.spoiled, "fails only together with the other edits of this run", at_once),
            _Cause(shared, "another edit has the same subject, and with it nearly the same key", one_key_each),
        ]

    @property
    def _causes_alone(self) -> list[_Cause]:
        """What was seen of the failed edits that fail alone too, or were not tried alone."""
        remaining = [result for result in self.failed if not result.alone]
        long = [result for result in remaining if result.is_long]
        longest = max((result.tokens or 0 for result in long), default=0)
        texts = [result for result in remaining if result.paragraph and not self.experts]
        others = [result for result in remaining if result not in (*long, *texts)]
        always = [result for result in others if result.alone is False]
        causes = [
            _Cause(long, f"a target of up to {longest} tokens", self._ways(long)[:2]),
            _Cause(texts, "a paragraph as the target", [_PARAGRAPH]),
            _Cause(always, "made alone, the edit fails too", self._ways(always)[:2]),
        ]
        if len(self.edits) == 1 and not always:
            causes.append(_Cause(others, "the target is not generated", self._ways(others)[:2]))
        return causes

    @computed_field  # type: ignore[prop-decorator] # also in report.json
    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that make the failed edits by another method on top of the others; () if there are none."""
        # The preset for long targets changes the same weight again. That helps if every failed edit has a long target;
        # edits that fail because their keys are nearly the same would spoil each other again.
        all_are_long = not self.spoiled and all(result.is_long for result in self.failed)
        ways = self._ways(self.failed)
        if not all_are_long and _ROME_LONG in ways:
            ways.remove(_ROME_LONG)
        if not ways or not self.failed or not self.succeeded or not self.model:
            return ()
        ledger = quote(f"{self.folder}-ledger/")  # of this run alone: names of other edits can't be meant
        names = " ".join(quote(result.edit) for result in self.failed)
        model = quote(self.model)
        failed = quote(str(self.folder / FAILED))
        folder = quote(str(self.folder))
        force = " --force" if self.refused else ""
        options = f"--model {model}{self.graph_options}"
        to_remove = f"{names} {options}"
        if any(result.edit.startswith("-") for result in self.failed):
            to_remove = f"{options} -- {names}"  # after "--", an id that begins with a dash is not read as an option
        return (
            f"kg-edit patch add {ledger} {folder}{force}",
            f"kg-edit patch remove {ledger} {to_remove}",
            f"kg-edit patch edit {ledger} {failed} --method {ways[0]} --model {model}",
            f"kg-edit patch check {ledger} --model {model}",
        )

    @property
    def graph_options(self) -> str:
        """The options by which a command opens the method's graph again; empty for the packaged default."""
        return "".join(f" --graph {quote(name)}" for name in self.graph)

    def _ways(self, results: Sequence[EditResult]) -> list[str]:
        """Return other methods that take these edits, the nearest first."""
        has_both_forms = any(result.both for result in results)
        has_paragraph = any(result.paragraph for result in results)
        ways = []
        if not self.experts and not has_paragraph:
            ways.append(_ROME_LONG)
        if not self.experts and not has_both_forms:
            ways.append(_GRACE)
        if not has_paragraph:
            ways.append(_IKE)
        if has_paragraph or self.experts:
            ways.append(_RAG)
        used = (self.method, f"{self.method} --preset {self.preset}")  # made these edits, and failed
        return [way for way in ways if way not in used]

    @classmethod
    def beside(cls, patch: Path) -> Verdict | None:
        """Return the verdict of the run that wrote a patch file; None if its folder has none that can be read."""
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
            if result.both and result.chat:
                prompt += ", in chat form"
            target, text = _show_difference(result.target, result.generated)
            likelier = ""
            if result.likelier:
                likelier = ", though the target is more likely than the old one"
            cases.append(f"{result.edit} ({prompt}: target {target!r}, generated {text!r}{likelier})")
        return f"{self.counted}; {len(self.failed)} failed: {_enumerate(cases)}"
