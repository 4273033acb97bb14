"""The advice of a verdict: what was seen of the edits that failed, and which other methods may make them.

`advise` returns a line for each cause; docs/limits.md says why the method of a line may help. `commands_for` returns
the commands that make the failed edits by another method, on top of the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from kg_edit.reports.edit_results import EditResult

FAILED = "failed.jsonl"
NAMED = 10  # edits that a line names, at most
_PAGE = "docs/limits.md#edits-that-fail"
# Methods that the advice names
_ROME_LONG = "rome --preset long"
_GRACE = "grace"
_IKE = "ike"
_RAG = "rag"
_PARAGRAPH = "ft-m --set steps=100"  # a paragraph takes more steps
_AT_ONCE = "alphaedit"  # makes all edits at once


class JudgedRun(BaseModel):
    """The run that a verdict is about; most of it is for the advice and its commands.

    Attributes:
        method: the method that made the edits.
        preset: the name of the preset of its settings.
        graph: the values of ``--graph`` by which the method's graph is opened again, for the commands.
        joint: whether the method makes all edits at once, and not in sequence.
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
    repeats: tuple[tuple[str, str], ...] = ()
    opposes: tuple[tuple[str, str], ...] = ()
    refused: tuple[str, ...] = Field((), exclude=True)
    model: str = Field("", exclude=True)
    experts: bool = Field(False, exclude=True)
    folder: Path = Field(Path(), exclude=True)

    @property
    def graph_options(self) -> str:
        """The options by which a command opens the method's graph again; empty for the packaged default."""
        return "".join(f" --graph {quote(name)}" for name in self.graph)


def advise(run: JudgedRun, edits: Sequence[EditResult]) -> tuple[str, ...]:
    """Return a line for each cause: what was seen, and a method that may help; the page of `_PAGE` says why."""
    lines = []
    for cause in (*_causes_together(run, edits), *_causes_alone(run, edits)):
        if cause.results:
            lines.append(str(cause))
    failed = [result for result in edits if not result.succeeded]
    if failed:
        lines.append(f"why an edit fails, and what helps: {_PAGE}")
    if commands_for(run, edits):  # a patch that was made on the unedited model would not know of the others
        lines.append(f"{_ids(failed)}: the four commands make it by another method on top of the others")
    if run.refused:
        lines.append(f"kg-edit patch add refuses this patch without --force: {'; '.join(run.refused)}")
    known = [result for result in edits if result.known]
    if known:
        lines.append(f"{_ids(known)}: the unedited model generates this target already; no edit is needed")
    for edit, first in run.repeats[:NAMED]:
        lines.append(f"{edit} repeats {first} exactly, and was made once")
    for edit, first in run.opposes[:NAMED]:
        lines.append(f"{edit} contradicts {first}: one fact, two targets; keep one of them")
    return tuple(lines)


class _Cause(NamedTuple):
    """What was seen of some failed edits, and the methods that may make them."""

    results: Sequence[EditResult]
    seen: str
    methods: Sequence[str]

    def __str__(self) -> str:
        line = f"{_ids(self.results)}: {self.seen}"
        if self.methods:
            options = [f"--method {method}" for method in self.methods]
            line += f"; {' or '.join(options)} may make it"
        return line


def _causes_together(run: JudgedRun, edits: Sequence[EditResult]) -> list[_Cause]:
    """Return what was seen of the edits that the other edits of the run spoil."""
    spoiled = [result for result in edits if result.is_spoiled]
    subjects = Counter(result.subject for result in edits if result.subject)
    shared = [result for result in spoiled if subjects[result.subject] > 1]
    at_once = []
    if not run.joint and not run.experts and len(shared) < len(spoiled):
        at_once = [_AT_ONCE]
    one_key_each = []
    if _GRACE in _other_methods(run, shared):
        one_key_each = [_GRACE]
    return [
        _Cause(spoiled, "fails only together with the other edits of this run", at_once),
        _Cause(shared, "another edit has the same subject, and with it nearly the same key", one_key_each),
    ]


def _causes_alone(run: JudgedRun, edits: Sequence[EditResult]) -> list[_Cause]:
    """Return what was seen of the failed edits that fail alone too, or were not tried alone."""
    remaining = [result for result in edits if not result.succeeded and not result.is_spoiled]
    long = [result for result in remaining if result.is_long]
    longest = max((result.tokens or 0 for result in long), default=0)
    texts = [result for result in remaining if result.paragraph and not run.experts]
    others = [result for result in remaining if result not in (*long, *texts)]
    always = [result for result in others if result.alone is False]
    causes = [
        _Cause(long, f"a target of up to {longest} tokens", _other_methods(run, long)[:2]),
        _Cause(texts, "a paragraph as the target", [_PARAGRAPH]),
        _Cause(always, "made alone, the edit fails too", _other_methods(run, always)[:2]),
    ]
    if len(edits) == 1 and not always:
        causes.append(_Cause(others, "the target is not generated", _other_methods(run, others)[:2]))
    return causes


def _other_methods(run: JudgedRun, results: Sequence[EditResult]) -> list[str]:
    """Return other methods that take these edits, the nearest first."""
    has_both_forms = any(result.both for result in results)
    has_paragraph = any(result.paragraph for result in results)
    methods = []
    if not run.experts and not has_paragraph:
        methods.append(_ROME_LONG)
    if not run.experts and not has_both_forms:
        methods.append(_GRACE)
    if not has_paragraph:
        methods.append(_IKE)
    if has_paragraph or run.experts:
        methods.append(_RAG)
    used = (run.method, f"{run.method} --preset {run.preset}")  # made these edits, and failed
    return [method for method in methods if method not in used]


def commands_for(run: JudgedRun, edits: Sequence[EditResult]) -> tuple[str, ...]:
    """Return the commands that make the failed edits by another method on top of the others; () if there are none."""
    failed = [result for result in edits if not result.succeeded]
    method = _choose_method(run, failed)
    if method is None or not failed or len(failed) == len(edits) or not run.model:
        return ()
    ledger = quote(f"{run.folder}-ledger/")  # of this run alone: names of other edits can't be meant
    folder = quote(str(run.folder))
    failed_file = quote(str(run.folder / FAILED))
    model = quote(run.model)
    force = " --force" if run.refused else ""

    names = " ".join(quote(result.edit) for result in failed)
    options = f"--model {model}{run.graph_options}"
    to_remove = f"{names} {options}"
    if any(result.edit.startswith("-") for result in failed):
        to_remove = f"{options} -- {names}"  # after "--", an id that begins with a dash is not read as an option
    return (
        f"kg-edit patch add {ledger} {folder}{force}",
        f"kg-edit patch remove {ledger} {to_remove}",
        f"kg-edit patch edit {ledger} {failed_file} --method {method} --model {model}",
        f"kg-edit patch check {ledger} --model {model}",
    )


def _choose_method(run: JudgedRun, failed: Sequence[EditResult]) -> str | None:
    """Return the method that makes the failed edits again; None if no other method takes them.

    The preset for long targets changes the same weight again. That helps if every failed edit has a long target; edits
    that fail because their keys are nearly the same would spoil each other again.
    """
    methods = _other_methods(run, failed)
    all_are_long = all(result.is_long and not result.is_spoiled for result in failed)
    if not all_are_long and _ROME_LONG in methods:
        methods.remove(_ROME_LONG)
    return methods[0] if methods else None


def _ids(results: Sequence[EditResult]) -> str:
    """Return the ids of edits, at most `NAMED` of them: "row-1, row-2 and 3 more"."""
    ids = ", ".join(result.edit for result in results[:NAMED])
    if len(results) > NAMED:
        ids += f" and {len(results) - NAMED} more"
    return ids
