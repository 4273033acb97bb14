"""Measure which way makes the edits best that failed in a run, for the advice of `kg_edit.reports.advice`.

python studies/advice.py                                 # an hour on one thread; continues where it stopped
python studies/advice.py --sets pairs,facts --ways "grace;alphaedit --preset fast"

Each set of edits is made in one model by `rome --preset fast`, in sequence, as `kg-edit edit` does. Then its failed
edits are made again in each of the `WAYS`, with a ledger as the commands use it. A way has up to three parts:

- all edits of the set are made anew, by a method that makes them at once
- the edits that fail after that are removed from the ledger, so that some of the others are computed again
- they are made by another method, on top of the others

After a way all edits of the set are asked, and prompts about other things: neighbours of the edits, and unrelated ones.
Seconds are of the processor, for what comes after the run of ROME. No way stops at an update that would probably break
the model (`force`); the lines say how many there are. Writes the tables advice and advice-causes of results/.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from time import process_time
from typing import NamedTuple

from pydantic import BaseModel
from tables import RESULTS, ROOT, Number, Results, format_share, model_name

from kg_edit.cli.console import friendly
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.errors import RefusedEditsError
from kg_edit.evaluation.statistics import estimates
from kg_edit.methods import EditingMethod, find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.guards import find_disabling
from kg_edit.reports.edit_results import EditResult
from kg_edit.reports.edit_run import run_edits
from kg_edit.reports.finished_run import EditRun
from kg_edit.reports.prompt_comparison import compare_prompts
from kg_edit.reports.prompts import AskedPrompt, join_repeats, unrelated_prompts
from kg_edit.ship.ledger import Ledger
from kg_edit.ship.ledger.check import check
from kg_edit.storage.run_folder import PATCH

TABLE = "advice"
CAUSES = "advice-causes"
START = "rome --preset fast"  # makes all edits of a set in sequence
AT_ONCE = "alphaedit --preset fast"
log = logging.getLogger("studies.advice")


class Way(NamedTuple):
    """A way to make the failed edits of a run again.

    Attributes:
        first: the method that makes all edits of the set anew; "" if the edits of the run stay.
        then: the method that makes the failed ones on top of the others; "" if they stay failed.
        removes: whether the failed edits are removed before that, as the printed commands do.
    """

    first: str = ""
    then: str = ""
    removes: bool = True

    def __str__(self) -> str:
        if not self.removes:
            return f"{self.then}, nothing removed"
        if self.first and self.then:
            return f"all by {self.first}, then {self.then}"
        if self.first:
            return f"all by {self.first}"
        return self.then or "the run itself"


WAYS = (  # in the order in which they are measured; the slow ones come last
    Way(),
    Way(then="grace"),
    Way(then="ike"),
    Way(first=AT_ONCE),
    Way(first=AT_ONCE, then="grace"),
    Way(first=AT_ONCE, then="ike"),
    Way(then="rag"),
    Way(then="ike", removes=False),
    Way(then="grace", removes=False),
    Way(then="rome --preset long"),
    Way(first=AT_ONCE, then="rome --preset long"),
    Way(first="memit --preset fast"),
    Way(then="ft-m"),
)


class Line(BaseModel):
    """A line of the file of lines: what holds after a way on a set.

    Attributes:
        edits: the set.
        way: the way.
        generated: whether the target is generated after the edit's own prompt, by the edit's id.
        succeeds: whether `kg-edit patch check` counts the edit, by its id.
        same: whether a prompt about something else has the same text as before, by the prompt.
        in_weights: whether all edits are changes of weights, so that they can be exported.
        refused: the number of edits that would be refused without ``--force``, or that a batch left out.
        seconds: of the processor, for what comes after the run.
        causes: in the line of the run itself, why each failed edit fails, by its id.
    """

    edits: str
    way: str
    generated: dict[str, bool]
    succeeds: dict[str, bool]
    same: dict[str, bool]
    in_weights: bool
    refused: int = 0
    seconds: float = 0.0
    causes: dict[str, str] = {}


# The edits


SETS = {
    "facts": ("twenty facts", "bench/own_facts.jsonl"),
    "pairs": ("pairs of one subject", "bench/shared_subjects.jsonl"),
    "long": ("long targets", "bench/long_targets.jsonl"),
    "shapes": ("unusual shapes", "kg_edit/data/own-shapes.jsonl"),
}


def edits_of_set(name: str, limit: int) -> tuple[Edit, ...]:
    """Return the edits of a set, or at most ``limit`` that are spread evenly over it."""
    _, file = SETS[name]
    edits = read_edits(ROOT / file).edits
    if len(edits) <= limit:
        return edits
    return tuple(edits[index * len(edits) // limit] for index in range(limit))


def prompts_beside(edits: Sequence[Edit]) -> tuple[AskedPrompt, ...]:
    """Return the prompts that should not change: neighbours that name no subject of the edits, and unrelated ones."""
    subjects = {edit.subject for edit in edits if edit.subject}
    prompts = list[AskedPrompt]()
    for edit in edits:
        for text in edit.neighborhood:
            if not any(subject in text for subject in subjects):
                prompts.append(AskedPrompt(prompt=text, source="edit"))
    return join_repeats((*prompts, *unrelated_prompts(edits)))


def cause_of(result: EditResult, edits: Sequence[Edit]) -> str:
    """Return why an edit of a run fails, as the advice tells causes apart; a long target is a cause in itself."""
    subjects = Counter(edit.subject for edit in edits if edit.subject)
    if result.is_long:
        return "long target"
    if result.is_spoiled and subjects[result.subject] > 1:
        return "one subject"
    if result.is_spoiled:
        return "only together"
    return "also alone"


# The ways


class Study:
    """The model and the folder; each run and each ledger is made once, and kept in the folder."""

    def __init__(self, model: str, sets: Sequence[str], limit: int, folder: Path) -> None:
        self.model = LanguageModel.load(model, dtype="float32")
        self.edits = {name: edits_of_set(name, limit) for name in sets}
        self.folder = folder

    def make_method(self, name: str) -> EditingMethod:
        """Return a method by its name, or by ``NAME --preset PRESET``."""
        method, _, preset = name.partition(" --preset ")
        return find_method(method).on(self.model, preset=preset or "default")

    def measure(self, name: str, way: Way) -> Line:
        """Make the failed edits of a set again in one way, and ask all edits and the prompts beside them."""
        edits = self.edits[name]
        if way.then and way.removes:
            source, seconds = self._remove_failed(name, way.first)
        else:
            source, seconds = self._ledger(name, way.first)
        folder = self.folder / name / "now"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)

        if way.then:
            failed = [edit for edit in edits if edit.id in self._find_failed(name, way.first)]
            method = self.make_method(way.then)
            method.prepare()  # C is measured once for a model
            begin = process_time()
            if failed:
                Ledger.open(folder).make(method, failed, force=True)
            seconds += process_time() - begin
        line = self._ask(name, way, Ledger.open(folder))
        causes = dict[str, str]()
        if way == Way():
            for result in self._run(name).verdict.failed:
                causes[result.edit] = cause_of(result, edits)
        return line.model_copy(update={"seconds": seconds, "causes": causes})

    @cache  # noqa: B019 - there is one study
    def _run(self, name: str) -> EditRun:
        """Make all edits of a set by the first method, as `kg-edit edit` does."""
        folder = self.folder / name / "run"
        method = self.make_method(START)
        alone = name != "long"  # their cause is known without making each failed one alone, which takes minutes
        return run_edits(
            method, self.model, self.edits[name], folder, force=True, alone=alone, locality_check=False, progress=False
        )

    @cache  # noqa: B019 - there is one study
    def _make_all(self, name: str, first: str) -> tuple[Path, float]:
        """Return the patch of all edits of a set by a method that makes them at once, and its seconds."""
        folder = self.folder / name / first.replace(" --preset ", "-")
        note = folder / "seconds.json"
        if note.is_file():
            return folder / PATCH, json.loads(note.read_text())
        folder.mkdir(parents=True, exist_ok=True)
        method = self.make_method(first)
        method.prepare()  # C is measured once for a model
        begin = process_time()
        _make_usable(method, self.edits[name]).save(folder / PATCH)
        seconds = process_time() - begin
        note.write_text(json.dumps(seconds))
        return folder / PATCH, seconds

    def _ledger(self, name: str, first: str) -> tuple[Path, float]:
        """Return the ledger with all edits of a set, made by ``first`` or by the run, and the seconds of ``first``."""
        patch = self.folder / name / "run" / PATCH
        seconds = 0.0
        if first:
            patch, seconds = self._make_all(name, first)
        else:
            self._run(name)
        folder = patch.parent / "ledger"
        if not folder.is_dir():
            Ledger.open(folder).add(patch, force=True)
        return folder, seconds

    @cache  # noqa: B019 - there is one study
    def _find_failed(self, name: str, first: str) -> frozenset[str]:
        """Return the ids of the edits whose targets are not generated, in the run or after ``first``."""
        folder, _ = self._ledger(name, first)
        line = self._ask(name, Way(first=first), Ledger.open(folder))
        return frozenset(id_ for id_, is_generated in line.generated.items() if not is_generated)

    @cache  # noqa: B019 - there is one study
    def _remove_failed(self, name: str, first: str) -> tuple[Path, float]:
        """Return the ledger of `_ledger` without the edits that fail, and the seconds that both took."""
        folder, seconds = self._ledger(name, first)
        failed = self._find_failed(name, first)
        removed = folder.with_name("removed")
        note = folder.with_name("removed.json")
        if note.is_file():
            return removed, json.loads(note.read_text())
        shutil.rmtree(removed, ignore_errors=True)  # left by a kill
        shutil.copytree(folder, removed)
        ledger = Ledger.open(removed)
        active = {entry.edit.id for entry in ledger.active}  # a batch may have left out some that fail
        begin = process_time()
        ledger.remove([id_ for id_ in sorted(failed) if id_ in active], model=self.model)
        seconds += process_time() - begin
        note.write_text(json.dumps(seconds))
        return removed, seconds

    def _ask(self, name: str, way: Way, ledger: Ledger) -> Line:
        """Ask all edits of a set and the prompts beside them, with a ledger's patch."""
        edits = self.edits[name]
        patch = ledger.patch
        generated = {edit.id: False for edit in edits}
        succeeds = dict(generated)  # an edit that is not in the ledger fails
        with patch.applied(self.model) as edited:
            for checked in check(edited, ledger.active, ("rewrite",)):
                id_ = checked.entry.edit.id
                generated[id_] = all(answer.success for answer in checked.answers)
                succeeds[id_] = not checked.failures()
        differences = compare_prompts(self.model, patch, prompts_beside(edits))
        made = {entry.edit.id for entry in ledger.active}
        return Line(
            edits=name,
            way=str(way),
            generated=generated,
            succeeds=succeeds,
            same={difference.asked.text: difference.unchanged for difference in differences},
            in_weights=all(find_method(entry.method).changed_part == "weights" for entry in ledger.active),
            refused=len(find_disabling(patch, (), self.model)) + len(edits) - len(made),
        )


def _make_usable(method: EditingMethod, edits: Sequence[Edit]) -> Patch:
    """Make all edits of a batch but those whose values must not be written, as ``--keep-going`` does."""
    remaining = list(edits)
    while True:
        try:
            return method.edit(remaining)
        except RefusedEditsError as error:
            remaining = [edit for edit in remaining if edit.id not in error.reasons]
            method = error.method or method


# The tables


def _share_numbers(metric: str, values: Sequence[bool], about: dict[str, str]) -> Number:
    """Return the share of true values with its 95 % interval over the values."""
    found = estimates([{"share": float(value)} for value in values], names=["share"], seed=0)["share"]
    low = format_share(found.ci95_low)
    high = format_share(found.ci95_high)
    return Number(**about, n=str(len(values)), metric=metric, mean=format_share(found.mean), low=low, high=high)


def numbers(lines: Sequence[Line], model: str) -> Iterator[Number]:
    """Yield the rows of the two tables; a way that was not measured on all sets has only the shares of single sets."""
    by_way = dict[str, dict[str, Line]]()
    for line in lines:
        by_way.setdefault(line.way, {})[line.edits] = line
    runs = by_way[str(Way())]
    for way in WAYS:
        measured = by_way.get(str(way), {})
        about = {"data": "own edits", "method": str(way), "settings": "", "model": model_name(model)}
        yield from _numbers_of_way(measured, runs, {"table": TABLE, **about})
        if way != Way():
            yield from _numbers_of_causes(measured, runs, {"table": CAUSES, **about})


def _numbers_of_way(measured: dict[str, Line], runs: dict[str, Line], about: dict[str, str]) -> Iterator[Number]:
    """Yield what holds after a way: over all sets, and the generated targets of each set."""
    for name, (title, _) in SETS.items():
        if name in measured:
            of_set = list(measured[name].generated.values())
            share = format_share(sum(of_set) / len(of_set))
            yield Number(**about, n=str(len(of_set)), metric=title, mean=share)
    if measured.keys() != runs.keys():
        return
    generated = list[bool]()
    succeeds = list[bool]()
    same = list[bool]()
    lost = 0
    for name, line in measured.items():
        generated += line.generated.values()
        succeeds += line.succeeds.values()
        same += line.same.values()
        for id_, was_generated in runs[name].generated.items():
            lost += was_generated and not line.generated[id_]
    yield _share_numbers("generated", generated, about)
    yield _share_numbers("preferred or generated", succeeds, about)
    yield Number(**about, n=str(len(generated)), metric="good ones lost", mean=str(lost))
    yield _share_numbers("other prompts the same", same, about)
    in_weights = "no"
    if all(line.in_weights for line in measured.values()):
        in_weights = "yes"
    yield Number(**about, n=str(len(generated)), metric="all in the weights", note=in_weights)
    seconds = sum(line.seconds for line in measured.values())
    yield Number(**about, n=str(len(generated)), metric="s of a thread", mean=f"{seconds:.0f}")


def _numbers_of_causes(measured: dict[str, Line], runs: dict[str, Line], about: dict[str, str]) -> Iterator[Number]:
    """Yield the share of the run's failed edits whose target is generated after a way, by the cause of the failure."""
    by_cause: dict[str, list[bool]] = {"only together": [], "one subject": [], "long target": [], "also alone": []}
    incomplete = set[str]()  # causes with an edit of a set that was not measured
    for name, run in runs.items():
        for id_, cause in run.causes.items():
            if name in measured:
                by_cause[cause].append(measured[name].generated[id_])
            else:
                incomplete.add(cause)
    for cause, values in by_cause.items():
        if values and cause not in incomplete:
            yield _share_numbers(f"{cause} ({len(values)})", values, about)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each way on each set, or those that are left, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--sets", default=",".join(SETS), help="with commas; %(default)s by default")
    parser.add_argument("--ways", default=";".join(str(way) for way in WAYS), help="with semicolons; all by default")
    parser.add_argument("--limit", type=int, default=1000, help="so many edits of a set, spread over it")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "advice", help="folder of the runs and the lines")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    options = parser.parse_args(arguments)

    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "lines.jsonl"
    texts = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    lines = [Line.model_validate_json(text) for text in texts]
    done = {(line.edits, line.way) for line in lines}
    sets = options.sets.split(",")
    study = Study(options.model, sets, options.limit, options.out)
    chosen = [str(Way()), *options.ways.split(";")]
    for way in WAYS:  # each way on all sets, so that a run which is stopped has whole rows
        for name in sets:
            if str(way) not in chosen or (name, str(way)) in done:
                continue
            line = study.measure(name, way)
            lines.append(line)
            with file.open("a", encoding="utf-8") as out:
                out.write(f"{line.model_dump_json()}\n")
            good = sum(line.generated.values())
            same = sum(line.same.values())
            counts = f"{good} of {len(line.generated)} generated, {same} of {len(line.same)} other prompts the same"
            log.info("%s, %s: %s, %.0f s", name, way, counts, line.seconds)

    results = Results(options.results)  # read now: another study may have written there meanwhile
    results.add(numbers(lines, options.model))
    results.save()


if __name__ == "__main__":
    with friendly("studies"):
        main()
