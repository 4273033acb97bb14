"""Measure what `kg-edit audit` finds in models whose edits are known: own merges of some edits by some methods.

python studies/audit.py --data counterfact_plus/dev.json --sizes 1,10 --draws 5,2
python studies/audit.py --data counterfact_plus/dev.json --unedited models/gemma-3-270m-q4_k_m.gguf

Each merge is a checkpoint on disk, which is audited

- with its base: the changed weights that are found, those that the patch explains, others that are found; of a single
  edit also whether its subject comes first of twenty names, and whether the target is among the five written tokens;
- without a base: whether a changed weight stands out that did not before (`find_outliers`), and how many others do.

The unedited models are audited without a base, which gives the false alarms. A run continues where it stopped (--out
has a line for each audit, and the patches lie beside it). Writes the tables audit and audit-unedited of results/.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tables import RESULTS, ROOT, Number, Results, model_name

from kg_edit.cli.console import friendly
from kg_edit.edits.edit import Edit
from kg_edit.evaluation.datasets import readable_records
from kg_edit.evaluation.statistics import estimates
from kg_edit.graphs.source import open_named
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.checkpoint.audit import audit
from kg_edit.ship.checkpoint.merging import merge_checkpoint
from kg_edit.ship.checkpoint.spectrum import Outlier, find_outliers
from kg_edit.ship.checkpoint.stored import Checkpoint

METHODS = {  # their presets
    "rome": "fast",
    "glame": "fast",
    "memit": "fast",
    "alphaedit": "fast",
    "ft": "default",
    "lora": "default",
}
SKIPPED = 24  # records on which settings were chosen
NAMES = 20  # among which the subject of a single edit is looked for
log = logging.getLogger("studies.audit")


class Merge(NamedTuple):
    """Some edits by one method, merged together; ``draw`` is the number of this choice of edits."""

    method: str
    size: int
    draw: int

    @property
    def name(self) -> str:
        """The name under which a study records it."""
        return f"{self.method}-{self.size}-{self.draw}"

    def choose(self, edits: Sequence[Edit]) -> Sequence[Edit]:
        """Return its edits: the draws of a size share none."""
        start = self.draw * self.size
        return edits[start : start + self.size]


class Study:
    """The model, its checkpoint, and the edits from which the merges are drawn."""

    def __init__(self, model: str, edits: Sequence[Edit], graph: str, folder: Path) -> None:
        self.model = LanguageModel.load(model, dtype="float32")
        self.base = Checkpoint.of(model)
        self.edits = edits
        self.graph = open_named([graph])
        self.folder = folder
        self.outliers = list_outliers(self.base)  # before any edit

    def make_patch(self, merge: Merge) -> WeightPatch:
        """Return the patch of a merge; it is made once."""
        file = self.folder / f"{merge.name}.safetensors"
        if not file.is_file():
            method = find_method(merge.method)
            config = method.config_class.preset(METHODS[merge.method], {}, method=merge.method)
            graph = self.graph if method.needs_graph else None
            method(self.model, config, graph=graph).edit(merge.choose(self.edits)).save(file)
        patch = Patch.load(file)
        assert isinstance(patch, WeightPatch)
        return patch

    def measure(self, merge: Merge) -> dict[str, float]:
        """Merge the edits on disk, and return what the audits find."""
        patch = self.make_patch(merge)
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            edited = Checkpoint.open(merge_checkpoint(patch, self.base, Path(scratch) / "merged", progress=False))
            return {**self._audit_with_base(merge, patch, edited), **self._audit_alone(patch, edited)}

    def _audit_with_base(self, merge: Merge, patch: WeightPatch, edited: Checkpoint) -> dict[str, float]:
        """Return what the audit with the base finds."""
        first, *others = merge.choose(self.edits)
        names: tuple[str, ...] = ()
        if not others:
            subjects = [edit.subject for edit in self.edits if edit.subject != first.subject]
            names = (*dict.fromkeys(subjects[-NAMES:]), first.subject)[-NAMES:]
        findings = audit(self.base, edited, ledger=patch, names=names, model=self.model, progress=False)
        changed = [finding for finding in findings if finding.name in patch.factors]
        found = {
            "weights changed": float(len(patch.factors)),
            "found with the base": len(changed) / len(patch.factors),
            "explained by the patch": sum(finding.is_explained for finding in changed) / len(patch.factors),
            "others found with the base": float(len(findings) - len(changed)),
        }
        answering = [finding.answers_to[0] for finding in changed if finding.answers_to]
        if answering:
            found["subject first of 20 names"] = float(first.subject in answering)
        if not others and any(finding.writes for finding in changed):
            target = first.target_new.split()[0].casefold()
            tokens = set()
            for finding in changed:
                tokens.update(token.strip().casefold() for token in finding.writes)
            found["target written"] = float(any(token and target.startswith(token) for token in tokens))
        return found

    def _audit_alone(self, patch: WeightPatch, edited: Checkpoint) -> dict[str, float]:
        """Return what the audit without a base finds: among the changed weights, and among the others."""
        outliers = list_outliers(edited)
        new = []
        others = []
        for name, outlier in outliers.items():
            if outlier.stands_out and name not in patch.factors:
                others.append(name)
            elif outlier.stands_out and not self.outliers[name].stands_out:
                new.append(name)
        gains = [outliers[name].deviation - self.outliers[name].deviation for name in patch.factors]
        return {
            "found alone": float(bool(new)),
            "changed weights found alone": float(len(new)),
            "largest gain of deviation": max(gains),
            "others found alone": float(len(others)),
        }


def list_outliers(checkpoint: Checkpoint) -> dict[str, Outlier]:
    """Return all weights of the blocks by name, with how far they stand out."""
    return {outlier.name: outlier for outlier in find_outliers(checkpoint, progress=False)}


def count_outliers(outliers: Mapping[str, Outlier]) -> dict[str, float]:
    """Return how many weights there are, and how many of them stand out."""
    listed = [outlier for outlier in outliers.values() if outlier.stands_out]
    return {"weights": float(len(outliers)), "stand out": float(len(listed))}


def list_merges(methods: Sequence[str], sizes: Sequence[int], draws: Sequence[int]) -> Iterator[Merge]:
    """Yield all merges, the small ones first."""
    for size, count in zip(sizes, draws, strict=True):
        for draw in range(count):
            for method in methods:
                yield Merge(method, size, draw)


def write_results(done: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    """Write both tables from all audits that are recorded."""
    results = Results(options.results)  # read again: another study may have written there meanwhile
    groups: dict[tuple[str, str], list[dict[str, float | None]]] = {}
    for name, found in done.items():
        method, _, rest = name.partition("-")
        if method in METHODS:
            groups.setdefault((method, rest.partition("-")[0]), []).append(dict(found))
    model = model_name(options.model)
    for (method, size), rows in groups.items():
        about = {"table": "audit", "data": "CounterFactPlus", "n": str(len(rows)), "model": model}
        plural = "" if size == "1" else "s"
        row = {**about, "method": method, "settings": f"{model}, {size} edit{plural}"}
        for metric, estimate in estimates(rows, names=list(rows[0]), seed=0).items():
            ends = (estimate.mean, estimate.ci95_low, estimate.ci95_high)
            mean, low, high = ("" if value is None else f"{value:.2f}" for value in ends)
            results.add([Number(**row, metric=metric, mean=mean, low=low, high=high)])
    for name, found in done.items():
        if name.startswith("unedited "):
            unedited = model_name(name.removeprefix("unedited "))
            about = {"table": "audit-unedited", "data": "", "n": "1", "model": unedited}
            for metric, count in found.items():
                results.add([Number(**about, method="unedited", settings=unedited, metric=metric, mean=f"{count:.0f}")])
    results.save()


def main(arguments: Sequence[str] | None = None) -> None:
    """Audit the merges that are left, and write the tables audit and audit-unedited."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", type=Path, required=True, help="a file of CounterFactPlus")
    parser.add_argument("--graph", default="extract", help="a graph for glame; %(default)s by default")
    parser.add_argument("--methods", default=",".join(METHODS), help="%(default)s by default")
    parser.add_argument("--sizes", default="1,10", help="numbers of edits in a merge; %(default)s by default")
    parser.add_argument("--draws", default="5,2", help="merges of each size; %(default)s by default")
    parser.add_argument("--unedited", nargs="*", default=[], help="further models to audit unedited")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "out" / "audit" / "audit.jsonl", help="a line for each audit"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    options = parser.parse_args(arguments)

    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.is_file() else []
    done: dict[str, dict[str, Any]] = {line["name"]: line["found"] for line in lines}

    def note(name: str, found: dict[str, float]) -> None:
        done[name] = found
        with options.out.open("a") as out:
            out.write(json.dumps({"name": name, "found": found}) + "\n")
        log.info("%s: %s", name, found)

    for model in (options.model, *options.unedited):
        name = f"unedited {Path(model).stem}"
        if name not in done:
            note(name, count_outliers(list_outliers(Checkpoint.of(model))))
    edits = [record.edits[0] for record in readable_records(options.data)[SKIPPED:]]
    study = Study(options.model, edits, options.graph, options.out.parent)
    sizes = [int(size) for size in options.sizes.split(",")]
    draws = [int(count) for count in options.draws.split(",")]
    for merge in list_merges(options.methods.split(","), sizes, draws):
        if merge.name not in done:
            note(merge.name, study.measure(merge))
    write_results(done, options)


if __name__ == "__main__":
    with friendly("studies"):
        main()
