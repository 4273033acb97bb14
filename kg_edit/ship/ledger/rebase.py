"""Rebase a ledger on another model, such as the next release of its own: what it does not know yet is edited again.

`rebase` asks the new model the edits' own prompts. Edits whose targets it generates already are dropped; the others are
computed again on it from their records, step by step, by their methods with the settings of then. The result is a new
ledger, whose folder also has the old one:

    ledger.jsonl, patches/    the edits on the new model
    before/                   the old ledger with its history
    rebase.json               the two models, and the edits that were dropped

An interrupted rebase continues after its last edit: until all are made and checked, the work is in a hidden folder
beside the new ledger, which then takes its place at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx

from kg_edit.errors import KgEditError, OutputError, PatchError
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods import EditingMethod
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.entries import EditPosition, Entry, edit_of, list_patch_entries
from kg_edit.patches.guards import SeenEdits
from kg_edit.patches.weight_patch import sum_patches
from kg_edit.ship.export.folders import check_new
from kg_edit.ship.ledger.check import CheckedEdit, check
from kg_edit.ship.ledger.ledger import Ledger
from kg_edit.ship.ledger.listing import Listing
from kg_edit.ship.ledger.log import BEFORE, REBASED
from kg_edit.ship.ledger.removal import RecomputeContext, Record, batches
from kg_edit.storage.atomic import write_json
from kg_edit.storage.locks import folder_lock

_SETTINGS = "settings.json"
_KNOWN = "known.json"
_NEW = "new"
_SAVING_SHARE = 19  # after a save, none is due for this many times as long as it took

log = logging.getLogger(__name__)


class KnownFact(NamedTuple):
    """An edit whose target the new model generates already, and the text that it generates."""

    entry: Entry
    text: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Rebased:
    """A ledger that was rebased.

    Attributes:
        folder: the new ledger.
        known: the edits that the new model knows already; they are not in the new ledger.
        checked: the edits of the new ledger, with the answers of the edited new model.
    """

    folder: Path
    known: tuple[KnownFact, ...]
    checked: tuple[CheckedEdit, ...]


def rebase(
    source: Listing,
    model: LanguageModel,
    out: str | Path,
    *,
    graph: SubgraphSource | nx.DiGraph | None = None,
    force: bool = False,
    progress: bool = False,
) -> Rebased:
    """Make the ledger of another model from a ledger, and check its edits.

    Args:
        source: the ledger; it stays as it is.
        model: the unedited other model.
        out: a new folder for the new ledger.
        graph: the graph for methods that read one; None: the packaged extract, if the edits were made with it.
        force: also make edits that would probably break the model.
        progress: show progress bars.

    Raises:
        PatchError: the ledger has no edits, is of this model already, or has a step that can't be computed again.
        KgEditError: an edit can't be made; the same call continues where it stopped.
    """
    target = check_new(Path(out))
    patches = source.patches
    active = source.active
    if not active:
        raise PatchError(f"{source.folder} has no active edit, so there is nothing to rebase")
    if sum_patches(patches.values()).fingerprint == model.fingerprint:
        raise PatchError(f"{source.folder} is a ledger of this model already ({model.name}); give another --model")
    context = RecomputeContext(model=model, graph=graph)
    methods = {number: _make_method(context, number, patch) for number, patch in patches.items()}
    with _work_folder(target, source, model) as work:
        known = _find_known(active, model, work / _KNOWN, progress=progress)
        made: dict[int, Patch] = {}  # by the number of the step
        for step in source.steps:
            records = _list_unknown_records(step.number, patches[step.number], known)
            if records:
                before = sum_patches(made[number] for number in step.after if number in made)
                method = methods[step.number]
                saves = _Saves(work, step.number)
                made[step.number] = _rebase_step(method, records, before, saves, force=force, progress=progress)
        checked = _check_all(made, model, progress=progress)
        _write_ledger(work / _NEW, source, made, work)
        write_json(work / _NEW / REBASED, _write_notes(patches, model, known))
        _put_in_place(work / _NEW, target)
    return Rebased(folder=Path(out), known=known, checked=checked)


def _make_method(context: RecomputeContext, number: int, patch: Patch) -> EditingMethod:
    """Return the method that made a step, on the new model."""
    try:
        return context.make_unchecked_method(patch)
    except KgEditError as error:
        error.add_note(f"in step {number}, which can't be computed again; remove it from the ledger ({number}/*)")
        raise


def _find_known(entries: Sequence[Entry], model: LanguageModel, file: Path, *, progress: bool) -> tuple[KnownFact, ...]:
    """Return the edits whose targets the unedited model generates after their prompts; they are asked once."""
    if not file.is_file():
        texts = dict[str, str]()
        for answered in check(model, entries, progress=progress):
            rewrites = answered.of("rewrite")
            if all(answer.success for answer in rewrites):
                texts[_key_of(answered.entry)] = rewrites[0].text
        write_json(file, texts)
    # The file is read also after it was just written: an interrupted rebase and this one go the same way.
    texts = json.loads(file.read_text(encoding="utf-8"))
    known = []
    for entry in entries:
        text = texts.get(_key_of(entry))
        if text is not None:
            known.append(KnownFact(entry, text))
    return tuple(known)


def _key_of(entry: Entry) -> str:
    """Return an edit's key in the file of known facts, such as 3/lebron for an edit of step 3."""
    return f"{entry.position.step}/{entry.position.id}"


def _list_unknown_records(step: int, patch: Patch, known: Sequence[KnownFact]) -> list[Record]:
    """Return the records of a step's edits that the new model does not know already."""
    known_positions = {fact.entry.position for fact in known}
    return [record for record in patch.edits if EditPosition(step, record["edit"]["id"]) not in known_positions]


class _Saves:
    """The files of one step in the work folder: the edits so far while it is made, and the finished patch."""

    def __init__(self, work: Path, number: int) -> None:
        self.finished = work / f"step-{number:04}.safetensors"
        self.partial = work / f"step-{number:04}.partial.safetensors"
        self._due = 0.0  # the time of the next save

    def load(self) -> Patch | None:
        """Return what an interrupted rebase has made of the step."""
        for file in (self.finished, self.partial):
            if file.is_file():
                return Patch.load(file)
        return None

    def save_if_due(self, latest: Patch) -> None:
        """Save the edits so far, if the last save was long enough ago."""
        begin = time.monotonic()
        if begin < self._due:
            return
        latest.save(self.partial)
        end = time.monotonic()
        self._due = end + _SAVING_SHARE * (end - begin)

    def finish(self, patch: Patch) -> None:
        """Save the step's patch."""
        patch.save(self.finished)
        self.partial.unlink(missing_ok=True)


def _rebase_step(
    method: EditingMethod,
    records: Sequence[Record],
    before: Patch,
    saves: _Saves,
    *,
    force: bool,
    progress: bool,
) -> Patch:
    """Compute a step again on the new model, on top of ``before``, and continue what was made of it.

    The method calls ``guard`` with each new patch before it adds it to those made so far, and then saves their sum.
    Unless ``force`` is set, the guard refuses an edit that would probably break the model.
    """
    made = saves.load()  # what an interrupted rebase has made
    seen = SeenEdits()
    done = set[str]()  # the ids of the edits in `made`
    if made is not None:
        seen.add(made)
        done.update(record["edit"]["id"] for record in made.edits)
    beneath = None if before.is_empty else before

    def guard(latest: Patch, _so_far: Patch) -> None:
        if not force:
            seen.add_checked(latest, method.model)

    for batch in batches(records, joint=method.joint):
        wanted = [edit_of(record) for record in batch if record["edit"]["id"] not in done]
        if not wanted:
            continue
        made = method.edit(
            wanted,
            start=made,
            before=beneath,
            guard=guard,
            after_each=saves.save_if_due,
            progress=progress,
        )
    assert made is not None  # noqa: S101 - there are records
    saves.finish(made)
    return made


def _check_all(made: Mapping[int, Patch], model: LanguageModel, *, progress: bool) -> tuple[CheckedEdit, ...]:
    """Ask the edited new model the prompts of all its edits."""
    if not made:
        return ()
    patch = sum_patches(made.values())
    with patch.applied(model) as edited:
        return check(edited, list_patch_entries(patch), progress=progress)


def _write_ledger(folder: Path, source: Listing, made: Mapping[int, Patch], work: Path) -> None:
    """Write the new ledger, with the old one in it; steps come after one another as they did.

    Each step is added as the file that `_Saves` has finished, because a ledger stores a copy of a patch file.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed
    ledger = Ledger.open(folder)
    numbers = dict[int, int]()  # of each step in the new ledger, by that in the old one
    for step in source.steps:
        if step.number in made:
            after = [numbers[number] for number in step.after if number in numbers]
            numbers[step.number] = ledger.add(_Saves(work, step.number).finished, after=after, force=True)
    folder.mkdir(exist_ok=True)
    shutil.copytree(source.folder, folder / BEFORE, ignore=shutil.ignore_patterns(".*"))


def _write_notes(patches: Mapping[int, Patch], model: LanguageModel, known: Sequence[KnownFact]) -> dict[str, Any]:
    """Return what the file `REBASED` has."""
    old = sum_patches(patches.values()).provenance.get("model", {})
    return {
        "version": 1,
        "from": {"name": old.get("name"), "fingerprint": old.get("fingerprint")},
        "to": {"name": model.name, "fingerprint": model.fingerprint},
        "known": {_key_of(fact.entry): fact.text for fact in known},
    }


@contextmanager
def _work_folder(target: Path, source: Listing, model: LanguageModel) -> Iterator[Path]:
    """Yield the hidden folder of the work on ``target``; it is deleted at the end, and stays after an error.

    What another rebase left there, of another state of the ledger or on another model, is deleted first.
    """
    work = target.with_name(f".{target.name}.rebase")
    events = "\n".join(event.model_dump_json() for event in source.events)
    settings = {
        "ledger_sha256": hashlib.sha256(events.encode()).hexdigest(),
        "fingerprint": model.fingerprint,
        "dtype": str(model.model.dtype),
    }
    try:
        if work.exists() and _read_settings(work) != settings:
            log.info("%s was of another rebase, and is begun anew", work)
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"can't write {work}: {error.strerror or error}; give another --out") from error
    with folder_lock(work):
        write_json(work / _SETTINGS, settings)
        yield work
    shutil.rmtree(work, ignore_errors=True)


def _read_settings(work: Path) -> Any:
    try:
        return json.loads((work / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _put_in_place(folder: Path, target: Path) -> None:
    """Rename the new ledger to its place, where at most an empty folder is."""
    try:
        folder.replace(target)
    except OSError as error:
        raise OutputError(f"can't write {target}: {error.strerror or error}; give another --out") from error
