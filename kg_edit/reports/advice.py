"""The advice of a verdict: what was seen of the edits that failed, and which other methods may make them.

`advise` returns a line for each cause; docs/limits.md says why the method of a line may help. `commands_for` returns
the commands that make the failed edits by another method, on top of the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

from kg_edit.reports.edit_results import EditResult

if TYPE_CHECKING:
    from kg_edit.reports.verdict import Verdict

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


def advise(verdict: Verdict) -> tuple[str, ...]:
    """Return a line for each cause: what was seen, and a method that may help; the page of `_PAGE` says why."""
    lines = []
    for cause in (*_causes_together(verdict), *_causes_alone(verdict)):
        if cause.results:
            lines.append(str(cause))
    if verdict.failed:
        lines.append(f"why an edit fails, and what helps: {_PAGE}")
    if verdict.commands:  # a patch that was made on the unedited model would not know of the others
        lines.append(f"{_ids(verdict.failed)}: the four commands make it by another method on top of the others")
    if verdict.refused:
        lines.append(f"kg-edit patch add refuses this patch without --force: {'; '.join(verdict.refused)}")
    known = [result for result in verdict.edits if result.known]
    if known:
        lines.append(f"{_ids(known)}: the unedited model generates this target already; no edit is needed")
    for edit, first in verdict.repeats[:NAMED]:
        lines.append(f"{edit} repeats {first} exactly, and was made once")
    for edit, first in verdict.opposes[:NAMED]:
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


def _causes_together(verdict: Verdict) -> list[_Cause]:
    """Return what was seen of the edits that the other edits of the run spoil."""
    subjects = Counter(result.subject for result in verdict.edits if result.subject)
    shared = [result for result in verdict.spoiled if subjects[result.subject] > 1]
    at_once = []
    if not verdict.joint and not verdict.experts and len(shared) < len(verdict.spoiled):
        at_once = [_AT_ONCE]
    one_key_each = []
    if _GRACE in _other_methods(verdict, shared):
        one_key_each = [_GRACE]
    return [
        _Cause(verdict.spoiled, "fails only together with the other edits of this run", at_once),
        _Cause(shared, "another edit has the same subject, and with it nearly the same key", one_key_each),
    ]


def _causes_alone(verdict: Verdict) -> list[_Cause]:
    """Return what was seen of the failed edits that fail alone too, or were not tried alone."""
    remaining = [result for result in verdict.failed if not result.alone]
    long = [result for result in remaining if result.is_long]
    longest = max((result.tokens or 0 for result in long), default=0)
    texts = [result for result in remaining if result.paragraph and not verdict.experts]
    others = [result for result in remaining if result not in (*long, *texts)]
    always = [result for result in others if result.alone is False]
    causes = [
        _Cause(long, f"a target of up to {longest} tokens", _other_methods(verdict, long)[:2]),
        _Cause(texts, "a paragraph as the target", [_PARAGRAPH]),
        _Cause(always, "made alone, the edit fails too", _other_methods(verdict, always)[:2]),
    ]
    if len(verdict.edits) == 1 and not always:
        causes.append(_Cause(others, "the target is not generated", _other_methods(verdict, others)[:2]))
    return causes


def _other_methods(verdict: Verdict, results: Sequence[EditResult]) -> list[str]:
    """Return other methods that take these edits, the nearest first."""
    has_both_forms = any(result.both for result in results)
    has_paragraph = any(result.paragraph for result in results)
    methods = []
    if not verdict.experts and not has_paragraph:
        methods.append(_ROME_LONG)
    if not verdict.experts and not has_both_forms:
        methods.append(_GRACE)
    if not has_paragraph:
        methods.append(_IKE)
    if has_paragraph or verdict.experts:
        methods.append(_RAG)
    used = (verdict.method, f"{verdict.method} --preset {verdict.preset}")  # made these edits, and failed
    return [method for method in methods if method not in used]


def commands_for(verdict: Verdict) -> tuple[str, ...]:
    """Return the commands that make the failed edits by another method on top of the others; () if there are none."""
    methods = _other_methods(verdict, verdict.failed)
    # The preset for long targets changes the same weight again. That helps if every failed edit has a long target;
    # edits that fail because their keys are nearly the same would spoil each other again.
    all_are_long = not verdict.spoiled and all(result.is_long for result in verdict.failed)
    if not all_are_long and _ROME_LONG in methods:
        methods.remove(_ROME_LONG)
    if not methods or not verdict.failed or not verdict.succeeded or not verdict.model:
        return ()
    ledger = quote(f"{verdict.folder}-ledger/")  # of this run alone: names of other edits can't be meant
    folder = quote(str(verdict.folder))
    failed_file = quote(str(verdict.folder / FAILED))
    model = quote(verdict.model)
    force = " --force" if verdict.refused else ""

    names = " ".join(quote(result.edit) for result in verdict.failed)
    options = f"--model {model}{verdict.graph_options}"
    to_remove = f"{names} {options}"
    if any(result.edit.startswith("-") for result in verdict.failed):
        to_remove = f"{options} -- {names}"  # after "--", an id that begins with a dash is not read as an option
    return (
        f"kg-edit patch add {ledger} {folder}{force}",
        f"kg-edit patch remove {ledger} {to_remove}",
        f"kg-edit patch edit {ledger} {failed_file} --method {methods[0]} --model {model}",
        f"kg-edit patch check {ledger} --model {model}",
    )


def _ids(results: Sequence[EditResult]) -> str:
    """Return the ids of edits, at most `NAMED` of them: "row-1, row-2 and 3 more"."""
    ids = ", ".join(result.edit for result in results[:NAMED])
    if len(results) > NAMED:
        ids += f" and {len(results) - NAMED} more"
    return ids
