"""Measure what is left of edits after the next release of their model, and what `kg-edit patch rebase` restores.

python studies/survival.py --data counterfact_plus/dev.json --sizes 1,10,100 --draws 5,2,1

The next release is the model, trained further on the packaged text (`continue_training`). Each set of edits is asked in
five models:

- old: the old model with the patch
- kept beside: the next release with the old model's patch applied to it
- merged before: the old model with the edits merged into it, trained further in the same way
- rebased: the next release with the ledger that `kg-edit patch rebase` makes; an edit that the next release knows
  without a patch counts by its own answer
- unedited: the next release without any patch

Asked are, of each edit:

- generated, likelier: its own prompt, as `kg-edit patch check` does; o* is generated, or is likelier than o
- paraphrase: its paraphrases; o* is likelier than o
- neighbours: the prompts of its neighbours; their own object o is likelier than o*

A run continues where it stopped (--out has a line for each set, and the models and patches lie beside it). Writes the
table survival of results/.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from audit import Merge, list_merges
from tables import RESULTS, ROOT, Number, Results, model_name

from kg_edit.cli.console import friendly
from kg_edit.edits.edit import Edit
from kg_edit.evaluation.datasets import readable_records
from kg_edit.evaluation.statistics import estimates
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.entries import list_patch_entries
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.ship.checkpoint.merging import merge_checkpoint
from kg_edit.ship.checkpoint.stored import Checkpoint
from kg_edit.ship.ledger.check import check
from kg_edit.ship.ledger.ledger import Ledger
from kg_edit.ship.ledger.rebase import rebase

METHODS = {"rome": "fast", "memit": "fast", "alphaedit": "fast", "ft": "default"}  # their presets
TEXT = ROOT / "kg_edit" / "data" / "corpus.jsonl.gz"  # the packaged text
SKIPPED = 24  # records on which settings were chosen
WINDOW = 128  # tokens of a training step
LEARNING_RATE = 2e-5
STATES = ("old", "kept beside", "merged before", "rebased", "unedited")
MEASURES = ("generated", "likelier", "paraphrase", "neighbours")

log = logging.getLogger("studies.survival")

Answers = list[dict[str, float | None]]  # for each edit its share of right answers, by measure


def continue_training(model: LanguageModel, *, steps: int) -> LanguageModel:
    """Train a model in place on the packaged text with AdamW, every weight of it, and return it.

    Each step takes the next `WINDOW` tokens of the text, so every call sees the same ones in the same order.
    """
    network = model.model
    network.requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    texts = [json.loads(line) for line in gzip.decompress(TEXT.read_bytes()).splitlines()]
    tokens = model.tokenizer("\n".join(texts), return_tensors="pt")["input_ids"][0]
    windows = tokens.split(WINDOW)
    for step in range(steps):
        window = windows[step % (len(windows) - 1)][None]  # [1, WINDOW]; the last one is shorter
        with torch.autocast(network.device.type, dtype=torch.bfloat16):  # the weights and their steps stay in float32
            loss = network(input_ids=window, labels=window).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            log.info("step %d of %d: loss %.3f", step, steps, float(loss))
    network.requires_grad_(False)
    return model


def change_of(old: LanguageModel, new: LanguageModel) -> float:
    """Return the norm of all changes of weights, as a share of the norm of all weights."""
    squared_change = 0.0
    squared_norm = 0.0
    for before, after in zip(old.model.parameters(), new.model.parameters(), strict=True):
        squared_change += float((after - before).square().sum())
        squared_norm += float(before.square().sum())
    return (squared_change / squared_norm) ** 0.5


def share(values: Sequence[bool]) -> float | None:
    """Return the share of values that hold; None if there are none."""
    if not values:
        return None
    return sum(values) / len(values)


def ask(model: LanguageModel, patch: Patch) -> Answers:
    """Return the answers of a model to the prompts of a patch's edits, edit by edit."""
    found: Answers = []
    for checked in check(model, list_patch_entries(patch), ("rewrite", "paraphrase")):
        rewrites = checked.of("rewrite")
        found.append(
            {
                "generated": share([answer.success for answer in rewrites]),
                "likelier": share([answer.right for answer in rewrites]),
                "paraphrase": share([answer.right for answer in checked.of("paraphrase")]),
                "neighbours": keep_neighbours(model, checked.entry.edit),
            }
        )
    return found


def keep_neighbours(model: LanguageModel, edit: Edit) -> float | None:
    """Return the share of the neighbours' prompts after which o is likelier than o*."""
    if edit.target_true is None:
        return None
    pairs = [Pair(prompt, name) for prompt in edit.neighborhood for name in (edit.target_true, edit.target_new)]
    scores = score(model, pairs)
    kept = []
    for prompt in edit.neighborhood:
        old = scores[Pair(prompt, edit.target_true)]
        new = scores[Pair(prompt, edit.target_new)]
        kept.append(old.total_nll < new.total_nll)
    return share(kept)


class Study:
    """The old model, its next release, and the edits from which the sets are drawn."""

    def __init__(self, name: str, edits: Sequence[Edit], folder: Path, *, steps: int) -> None:
        self.old = LanguageModel.load(name, dtype="float32")
        self.stored = Checkpoint.of(name)
        self.edits = edits
        self.folder = folder
        self.steps = steps
        release = folder / f"release-{steps}"
        if not release.is_dir():
            trained = continue_training(LanguageModel.load(name, dtype="float32"), steps=steps)
            unfinished = folder / "release.unfinished"
            trained.model.save_pretrained(unfinished)
            trained.tokenizer.save_pretrained(unfinished)
            unfinished.rename(release)
        self.new = LanguageModel.load(release, dtype="float32")
        log.info("the next release differs by %.2f %% of the weights' norm", 100 * change_of(self.old, self.new))

    def make_patch(self, chosen: Merge) -> WeightPatch:
        """Return the patch of a set on the old model; it is made once."""
        file = self.folder / f"{chosen.name}.safetensors"
        if not file.is_file():
            method = find_method(chosen.method).on(self.old, preset=METHODS[chosen.method])
            method.edit(chosen.choose(self.edits)).save(file)
        patch = Patch.load(file)
        assert isinstance(patch, WeightPatch)
        return patch

    def measure(self, chosen: Merge) -> dict[str, Answers]:
        """Return the answers of a set's edits in each of the five models."""
        patch = self.make_patch(chosen)
        with patch.applied(self.old) as edited:
            answers = {"old": ask(edited, patch)}
        with self._readdress(patch).applied(self.new) as edited:
            answers["kept beside"] = ask(edited, patch)
        answers["unedited"] = ask(self.new, patch)
        answers["merged before"] = self._ask_merged(patch)
        answers["rebased"] = self._ask_rebased(chosen, patch, answers["unedited"])
        return answers

    def _readdress(self, patch: WeightPatch) -> WeightPatch:
        """Return the same change as a patch of the next release, for which a patch of the old model is refused."""
        made_for = {**patch.provenance["model"], "fingerprint": self.new.fingerprint}
        return replace(patch, provenance={**patch.provenance, "model": made_for})

    def _ask_merged(self, patch: WeightPatch) -> Answers:
        """Return the answers of the old model with the edits in its weights, trained further."""
        scratch = self.folder / "merged"
        shutil.rmtree(scratch, ignore_errors=True)
        merged = merge_checkpoint(patch, self.stored, scratch, progress=False)
        model = LanguageModel.load(merged, dtype="float32")
        shutil.rmtree(scratch)
        return ask(continue_training(model, steps=self.steps), patch)

    def _ask_rebased(self, chosen: Merge, patch: WeightPatch, unedited: Answers) -> Answers:
        """Return the answers of the next release with the rebased edits; those it knew already are ``unedited``."""
        folder = self.folder / f"{chosen.name}.rebased"
        if not folder.is_dir():
            ledger = self.folder / f"{chosen.name}.ledger"
            shutil.rmtree(ledger, ignore_errors=True)
            Ledger.open(ledger).add(patch, force=True)
            rebase(Ledger.open(ledger), self.new, folder, force=True)
        rebased = Ledger.open(folder, create=False).patch
        with rebased.applied(self.new) as edited:
            by_id = dict(
                zip([entry.edit.id for entry in list_patch_entries(rebased)], ask(edited, rebased), strict=True)
            )
        ids = [entry.edit.id for entry in list_patch_entries(patch)]
        return [by_id.get(name, known) for name, known in zip(ids, unedited, strict=True)]


def write_results(done: dict[str, dict[str, Answers]], options: argparse.Namespace) -> None:
    """Write the table from all sets that are recorded: the mean over edits, by method, size and model."""
    groups: dict[tuple[str, str], dict[str, Answers]] = {}
    for name, answers in done.items():
        method, size, _ = name.split("-")
        group = groups.setdefault((method, size), {state: [] for state in STATES})
        for state in STATES:
            group[state] += answers[state]
    results = Results(options.results)  # read again: another study may have written there meanwhile
    for (method, size), by_state in groups.items():
        for state, rows in by_state.items():
            about = {"table": "survival", "data": "CounterFactPlus", "n": str(len(rows))}
            row = {**about, "model": model_name(options.model), "method": method}
            row["settings"] = f"{size} edit{'' if size == '1' else 's'}, {state}"
            for metric, estimate in estimates(rows, names=MEASURES, seed=0).items():
                ends = (estimate.mean, estimate.ci95_low, estimate.ci95_high)
                mean, low, high = ("" if value is None else f"{value:.2f}" for value in ends)
                results.add([Number(**row, metric=metric, mean=mean, low=low, high=high)])
    results.save()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the sets of edits that are left, and write the table survival."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", type=Path, required=True, help="a file of CounterFactPlus")
    parser.add_argument("--methods", default=",".join(METHODS), help="%(default)s by default")
    parser.add_argument("--sizes", default="1,10,100", help="numbers of edits in a set; %(default)s by default")
    parser.add_argument("--draws", default="5,2,1", help="sets of each size; %(default)s by default")
    parser.add_argument("--steps", type=int, default=200, help="training steps of the release; %(default)s by default")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "survival.jsonl", help="a line for each set")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    options = parser.parse_args(arguments)

    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = options.out.read_text().splitlines() if options.out.is_file() else []
    done = {line["name"]: line["answers"] for line in map(json.loads, lines)}
    edits = [record.edits[0] for record in readable_records(options.data)[SKIPPED:]]
    study = Study(options.model, edits, options.out.parent, steps=options.steps)
    sizes = [int(size) for size in options.sizes.split(",")]
    draws = [int(draw) for draw in options.draws.split(",")]
    for chosen in list_merges(options.methods.split(","), sizes, draws):
        if chosen.name in done:
            continue
        done[chosen.name] = study.measure(chosen)
        with options.out.open("a") as out:
            out.write(json.dumps({"name": chosen.name, "answers": done[chosen.name]}) + "\n")
        for state in STATES:
            log.info("%s, %s: %s", chosen.name, state, done[chosen.name][state][0])
    write_results(done, options)


if __name__ == "__main__":
    with friendly("studies"):
        main()
