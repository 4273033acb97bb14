"""The advice of a verdict: what was seen of the edits that failed, and which other methods may make them.

`BEST` is the table of what measured best for each cause of a failure; docs/limits.md has the figures. `advise` returns
the lines of the advice: one for each cause that was seen, then those about the run. `find_way` returns the best way to
make the failed edits, with its commands: all edits are made anew at once, or the failed ones by another method on top
of the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from kg_edit.reports.edit_results import EditResult

FAILED = "failed.jsonl"
EDITS = "edits.jsonl"
NAMED = 10  # edits that a line names, at most
_PAGE = "docs/limits.md#edits-that-fail"
CauseName = Literal["together", "one subject", "long", "paragraph", "fails alone", "untried"]
_AT_ONCE = "alphaedit --preset fast"  # makes all edits at once, in the weights
_ROME_LONG = "rome --preset long"
_GRACE = "grace"
_IKE = "ike"
_RAG = "rag"


# The methods that measured best for each cause, the best first: from the tables advice and advice-causes of results/
# (`studies/advice.py`), for "together" also own-together, and for paragraphs the table unstructured. The first method
# that takes the edits is in the commands.
BEST: Mapping[CauseName, tuple[str, ...]] = {
    # Each made all of them; grace lost no good one.
    "together": (_GRACE, _AT_ONCE, _IKE),
    # A key for each prompt made all of them, a text in the prompt a third.
    "one subject": (_GRACE, _IKE),
    # A text in the prompt made all of them, grace nine of ten; ROME's way, the only one in the weights, a quarter.
    "long": (_IKE, _GRACE, _ROME_LONG),
    # A paragraph takes more steps.
    "paragraph": ("ft-m --set steps=100", _RAG),
    # Both made all of them, and grace changes nothing but its own prompt.
    "fails alone": (_GRACE, _IKE),
    # It was not seen whether these edits fail alone too. They probably do, so it is the same.
    "untried": (_GRACE, _IKE),
}


class JudgedRun(BaseModel):
    """The run that a verdict is about; most of it is for the advice and its commands.

    What the advice alone needs is excluded from report.json, which has the lines of the advice.

    Attributes:
        method: the method that made the edits.
        preset: the name of the preset of its settings.
        graph: the values of ``--graph`` by which the method's graph is opened again, for the commands.
        joint: whether the method makes all edits at once, and not in sequence.
        repeats: the edits that repeat an earlier one exactly and were not made again, (id, id of the earlier one).
        opposes: the edits with another target than an earlier edit of the same fact, (id, id of the earlier one).
        refused: the reasons why edits of the patch look as if they would break the model (`patches.guards`).
        model: the model's name, for the commands.
        reads_graph: whether the method reads a graph, which a method that makes all edits at once would not.
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
    reads_graph: bool = Field(False, exclude=True)
    experts: bool = Field(False, exclude=True)
    folder: Path = Field(Path(), exclude=True)

    @property
    def graph_options(self) -> str:
        """The options by which a command opens the method's graph again; empty for the packaged default."""
        return "".join(f" --graph {quote(name)}" for name in self.graph)


def advise(run: JudgedRun, edits: Sequence[EditResult]) -> tuple[str, ...]:
    """Return the lines of the advice: why edits failed and what may help, then what else was seen of the run."""
    return (*_advise_on_failures(run, edits), *_advise_on_run(run, edits))


def _advise_on_failures(run: JudgedRun, edits: Sequence[EditResult]) -> list[str]:
    """Return a line for each cause, with a method that may help, and a line on the commands; [] if no edit failed."""
    failed = [result for result in edits if not result.succeeded]
    if not failed:
        return []
    lines = []
    for cause, results in _group_by_cause(edits).items():
        lines.append(_describe_cause(cause, results, run, count=len(edits)))
    lines.append(f"why an edit fails, and what helps: {_PAGE}")
    way = find_way(run, edits)
    if way is not None:
        lines.append(f"{_ids(failed)}: {way.in_words}")
    return lines


def _advise_on_run(run: JudgedRun, edits: Sequence[EditResult]) -> list[str]:
    """Return lines on a patch that a ledger refuses, and on edits that are known, made already, or contradicted."""
    lines = []
    if run.refused:
        lines.append(f"kg-edit patch add refuses this patch without --force: {'; '.join(run.refused)}")
    known = [result for result in edits if result.known]
    if known:
        lines.append(f"{_ids(known)}: the unedited model generates this target already; no edit is needed")
    for edit, first in run.repeats[:NAMED]:
        lines.append(f"{edit} repeats {first} exactly, and was made once")
    for edit, first in run.opposes[:NAMED]:
        lines.append(f"{edit} contradicts {first}: one fact, two targets; keep one of them")
    return lines


def _group_by_cause(edits: Sequence[EditResult]) -> dict[CauseName, list[EditResult]]:
    """Return the failed edits by cause, in the order of `BEST`."""
    subjects = Counter(result.subject for result in edits if result.subject)
    groups: dict[CauseName, list[EditResult]] = {cause: [] for cause in BEST}
    for result in edits:
        if not result.succeeded:
            groups[_find_cause(result, subjects)].append(result)
    return {cause: results for cause, results in groups.items() if results}


def _find_cause(result: EditResult, subjects: Mapping[str, int]) -> CauseName:
    """Return why an edit failed, as far as it is known; ``subjects`` counts the edits of each subject."""
    if result.paragraph:
        return "paragraph"
    if result.is_long:
        return "long"
    if result.is_spoiled and subjects.get(result.subject, 0) > 1:
        return "one subject"
    if result.is_spoiled:
        return "together"
    if result.alone is None:
        return "untried"
    return "fails alone"


def _describe_cause(cause: CauseName, results: Sequence[EditResult], run: JudgedRun, *, count: int) -> str:
    """Return the line of a cause: the edits, what was seen of them, and at most two methods; the run had ``count``."""
    together = "fails only together with the other edits of this run"
    longest = max(result.tokens or 0 for result in results)
    seen = {
        "together": together,
        "one subject": f"{together}, of which one has the same subject, and with it nearly the same key",
        "long": f"a target of up to {longest} tokens",
        "paragraph": "a paragraph as the target",
        "fails alone": "made alone, the edit fails too",
        "untried": "the target is not generated",
    }[cause]
    if cause == "untried" and count > 1:
        seen += ", and the edit was not made alone"
    line = f"{_ids(results)}: {seen}"
    options = [f"--method {method}" for method in _list_methods(cause, run, results)[:2]]
    if options:
        line += f"; {' or '.join(options)} may make it"
    return line


def _list_methods(cause: CauseName, run: JudgedRun, results: Sequence[EditResult]) -> list[str]:
    """Return the methods for a cause that take these edits, the best first; then `ike` and `rag`, which take most."""
    used = (run.method, f"{run.method} --preset {run.preset}")  # these edits failed with it
    methods = []
    for method in dict.fromkeys((*BEST[cause], _IKE, _RAG)):
        if method not in used and _takes(method, run, results):
            methods.append(method)
    return methods


def _takes(method: str, run: JudgedRun, results: Sequence[EditResult]) -> bool:
    """Return whether a method makes edits like these, in this model; ``method`` may have options behind its name."""
    in_prompt = method in (_IKE, _RAG)
    if run.experts and not in_prompt:
        return False
    if method == _AT_ONCE:
        return not run.joint and not run.reads_graph
    if method in (_ROME_LONG, _GRACE, _IKE) and any(result.paragraph for result in results):
        return False
    if method == _GRACE:  # it makes an edit in one form only, plain or chat
        return not any(result.both for result in results)
    return True


class Way(NamedTuple):
    """A way to make the failed edits: its commands, and what they do, as the advice says it."""

    commands: tuple[str, ...]
    in_words: str


def find_way(run: JudgedRun, edits: Sequence[EditResult]) -> Way | None:
    """Return the best way to make the failed edits; None if there is none.

    The best way is that of the cause that most of the failed edits have. Its commands make all failed edits, so its
    method is the first one that takes each of them.
    """
    groups = _group_by_cause(edits)
    if not groups or not run.model:
        return None
    cause = max(groups, key=lambda name: len(groups[name]))  # the first of equals
    failed = [result for result in edits if not result.succeeded]
    methods = _list_methods(cause, run, failed)
    if not methods:
        return None
    if methods[0] == _AT_ONCE:
        return _make_all_anew(run, methods[0])
    if len(failed) == len(edits):  # nothing to make them on top of
        return None
    return _make_on_top(run, failed, methods[0])


def _make_all_anew(run: JudgedRun, method: str) -> Way:
    """Return the way that makes all edits of the run anew, by a method that makes them at once."""
    file = quote(str(run.folder / EDITS))
    name, *_ = method.split()
    out = quote(f"{run.folder}-{name}/")
    command = f"kg-edit edit {file} --method {method} --model {quote(run.model)} --out {out}"
    return Way((command,), "the command makes all edits anew, at once")


def _make_on_top(run: JudgedRun, failed: Sequence[EditResult], method: str) -> Way:
    """Return the way that makes the failed edits by another method on top of the others.

    They are made in a ledger, because a patch that is made on the unedited model would not know of the other edits.

    Most methods make them after the failed edits have been removed. This keeps the answers about other things, and the
    edits after a removed one are computed again, by which some good ones are lost. `grace` is better without: its keys
    take precedence over what the failed edits wrote, so it loses none, and takes an eighth of the time.
    """
    ledger = quote(f"{run.folder}-ledger/")  # of this run alone: names of other edits can't be meant
    folder = quote(str(run.folder))
    failed_file = quote(str(run.folder / FAILED))
    model = quote(run.model)
    force = " --force" if run.refused else ""

    add = f"kg-edit patch add {ledger} {folder}{force}"
    make = f"kg-edit patch edit {ledger} {failed_file} --method {method} --model {model}"
    check = f"kg-edit patch check {ledger} --model {model}"
    if method == _GRACE:
        return Way((add, make, check), f"the three commands make them by {method}, on top of all edits")

    names = " ".join(quote(result.edit) for result in failed)
    options = f"--model {model}{run.graph_options}"
    to_remove = f"{names} {options}"
    if any(result.edit.startswith("-") for result in failed):
        to_remove = f"{options} -- {names}"  # after "--", an id that begins with a dash is not read as an option
    remove = f"kg-edit patch remove {ledger} {to_remove}"
    in_words = f"the four commands make them by {method.split()[0]}, in the place of those that failed"
    return Way((add, remove, make, check), in_words)


def _ids(results: Sequence[EditResult]) -> str:
    """Return the ids of edits, at most `NAMED` of them: "row-1, row-2 and 3 more"."""
    ids = ", ".join(result.edit for result in results[:NAMED])
    if len(results) > NAMED:
        ids += f" and {len(results) - NAMED} more"
    return ids
