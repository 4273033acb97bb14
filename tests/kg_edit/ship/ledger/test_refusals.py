"""Ledgers, and changes of them, that are refused: the folder stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kg_edit.errors import (
    ConfigError,
    DamagedLedgerError,
    LedgerChangedError,
    OutputError,
    PatchError,
    UnknownNameError,
)
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.export.merged_model import check_mergeable
from kg_edit.ship.ledger import Ledger
from kg_edit.ship.ledger.additions import list_additions
from kg_edit.ship.ledger.listing import active_at
from kg_edit.ship.ledger.log import open_store
from kg_edit.ship.ledger.removal import check_same_graph
from tests.kg_edit.command_line import content
from tests.kg_edit.methods.test_methods import EDIT, SECOND, graph
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.ship.ledger.ledgers import edits_of, made_up
from tests.kg_edit.ship.ledger.test_removal import HASHED, record
from tests.kg_edit.tiny import tiny
from tests.refusals import Call, check_refused, put, refusals

STEP = "00000-00002.safetensors"
OTHER_WEIGHT = made_up(edits_of(2), weight="other.weight")
OTHER_GRAPHS = (
    ("graph: other content", HASHED, {**HASHED, "graph": {"content_hash": "b"}}),
    ("edges: 2 in the patch, 3 now", HASHED, {**HASHED, "edges": 3}),
    ("graph", HASHED, record()),
    ("graph.kind", record(graph={"kind": "mine"}), record(graph={"kind": "yours"})),
    ("requests", record(requests=[record()]), record(requests=[])),
)
ONE, TWO, THREE = (made_up(edits_of(2, start=start)) for start in (0, 2, 4))


def with_ledger(change: Callable[[Ledger], object]) -> Call:
    """A change of a ledger with one step, which has the edits e0 and e1."""

    def call(folder: Path) -> object:
        ledger = Ledger.open(folder / "ledger")
        ledger.add(ONE)
        return change(ledger)

    return call


def with_removal(change: Callable[[Ledger], object]) -> Call:
    """The same, with e2 and e3 in a second step that is removed."""

    def call(ledger: Ledger) -> object:
        ledger.add(TWO)
        ledger.remove("2/*")
        return change(ledger)

    return with_ledger(call)


def with_log(old: str, new: str) -> Call:
    """A ledger whose log was changed by hand is read."""

    def call(ledger: Ledger) -> object:
        log = ledger.folder / "ledger.jsonl"
        log.write_text(log.read_text().replace(old, new))
        return Ledger.open(ledger.folder).patch

    return with_removal(call)


def with_whole_log(text: str) -> Call:
    def call(ledger: Ledger) -> object:
        put(ledger.folder, "ledger.jsonl", text)
        return Ledger.open(ledger.folder).events

    return with_ledger(call)


def with_changed_patch(ledger: Ledger) -> object:
    TWO.save(ledger.folder / "patches" / "0001.safetensors")
    return Ledger.open(ledger.folder).patch


def add_file_again(folder: Path) -> object:
    file = ONE.save(folder / "one.safetensors")
    ledger = Ledger.open(folder / "ledger")
    ledger.add(file)
    return ledger.add(file)


def with_run(job: str, read: Callable[[Path], object] | None = None) -> Call:
    """The folder of a command's run in place of a ledger."""

    def call(folder: Path) -> object:
        (folder / "run").mkdir()
        put(folder / "run", "run.json", f'{{"job": "{job}"}}')
        if read is None:
            return Ledger.open(folder / "run")
        made_up(edits_of(1)).save(folder / "run" / "patches" / "00000-00002.safetensors")
        return read(folder / "run")

    return call


def near(name: str) -> Call:
    """A path like that of the ledger, with which a server is started."""
    return with_ledger(lambda ledger: open_store(ledger.folder.parent / name).refuse_misspelled())


def with_file(make: Callable[[], WeightPatch]) -> Call:
    """A patch that was made from others is added."""
    return lambda folder: Ledger.open(folder / "ledger").add(make().save(folder / "one.safetensors"))


def with_records(records: list[dict[str, object]]) -> Call:
    """A patch of which too little is known is listed."""
    return lambda folder: active_at(
        WeightPatch(factors=ONE.factors, provenance={"edits": records}).save(folder / "bare.safetensors")
    )


def steps_of_a_sequence(folder: Path) -> object:
    put(folder, "run.json", "{}")
    for name in ("00000-00002", "00000-00003"):
        ONE.save(folder / "patches" / f"{name}.safetensors")
    return list_additions([folder / "patches" / "00000-00003.safetensors"])


def of_two_settings(folder: Path) -> object:
    model, (one, other) = tiny("llama"), edits_of(2)
    ledger = Ledger.open(folder / "ledger")
    ledger.add(on_tiny("rome", model).edit([one]) + on_tiny("rome", model, steps=3).edit([other]))
    return ledger.remove(["e1"], model=model)


def of_a_graph(folder: Path) -> object:
    ledger = Ledger.open(folder / "ledger")
    ledger.add(on_tiny("glame", graph=graph()).edit([EDIT, SECOND]))
    return ledger.remove([EDIT.id], model=tiny("llama"))


def codebook_on_weights(folder: Path) -> Ledger:
    ledger, edits = Ledger.open(folder / "ledger"), edits_of(2)
    ledger.make(on_tiny("rome"), edits[:1], force=True)
    ledger.make(on_tiny("grace"), edits[1:])
    return ledger


def below_a_codebook(folder: Path) -> object:
    """The codebook was found on the model with the edit."""
    return codebook_on_weights(folder).remove(["e0"])


def codebook_to_merge(folder: Path) -> object:
    check_mergeable(codebook_on_weights(folder).patch, folder / "merged")
    return None


def folder_with_text(folder: Path) -> Ledger:
    put(folder, "thesis.tex")
    return Ledger.open(folder)


@refusals(
    {
        # What is opened
        "file in place of a folder": (lambda folder: Ledger.open(put(folder, "file")), OutputError, "is a file"),
        "folder of something else": (folder_with_text, OutputError, "has no ledger"),
        "ledger that is not there": (
            lambda folder: Ledger.open(folder / "nowhere", create=False),
            PatchError,
            "kg-edit patch add",
        ),
        "run of edit": (with_run("edit"), OutputError, "give its `kg-edit edit` command"),
        "run of evaluate": (with_run("evaluate"), OutputError, "no ledger"),
        "earlier state, to change it": (
            with_ledger(lambda ledger: Ledger.open(f"{ledger.folder}/@1")),
            PatchError,
            "is an earlier state of",
        ),
        "misspelt path": (near("ledgr"), PatchError, "/ledger?"),
        "path in another case": (near("Ledger"), PatchError, "/ledger?"),
        "path without its folder": (near("no/ledger"), PatchError, "is missing"),
        # Its files
        "changed patch": (with_ledger(with_changed_patch), DamagedLedgerError, "0001.safetensors was changed since"),
        "log of nonsense": (with_whole_log("nonsense\n"), DamagedLedgerError, "restore"),
        "event without a number": (with_whole_log('{"event": "added"}\n'), DamagedLedgerError, "restore"),
        "undone event that is not there": (
            with_whole_log('{"version":1,"event":"undone","number":2,"time":"t","kg_edit":"0","undoes":1}\n'),
            DamagedLedgerError,
            "restore",
        ),
        "event without a version": (
            with_whole_log('{"event":"undone","number":1,"time":"t","kg_edit":"0","undoes":1}\n'),
            DamagedLedgerError,
            "restore",
        ),
        "log of a later version": (
            with_log('"version":1', '"version":2'),
            DamagedLedgerError,
            "version 2 of the format",
        ),
        "removal from a step that is not there": (
            with_log('"files":{"2"', '"files":{"7"'),
            DamagedLedgerError,
            "step 7",
        ),
        "file that is not numbered": (
            with_log("0001.safe", "abc.safe"),
            DamagedLedgerError,
            "line 1: not a valid event",
        ),
        "file outside of the ledger": (
            with_log("0001.safe", "../0001.safe"),
            DamagedLedgerError,
            "line 1: not a valid event",
        ),
        "file of another kind": (
            with_log("0001.safetensors", "0001.st"),
            DamagedLedgerError,
            "line 1: not a valid event",
        ),
        # Additions
        "same patch again": (add_file_again, PatchError, "already in the ledger"),
        "step that is not there": (with_ledger(lambda ledger: ledger.add(TWO, after=[5])), PatchError, "after step 5"),
        "steps of an earlier ledger": (
            with_ledger(lambda ledger: ledger.add(TWO, on=())),
            LedgerChangedError,
            "try the edit again",
        ),
        "patch without edits": (
            with_ledger(lambda ledger: ledger.add(WeightPatch(factors={}))),
            PatchError,
            "has no edits",
        ),
        "edit without a method": (
            with_ledger(lambda ledger: ledger.add(WeightPatch(factors={}, provenance={"edits": [{"seed": 1}]}))),
            PatchError,
            "lacks one of edit, method",
        ),
        "folder of evaluate": (with_run("evaluate", lambda run: list_additions([run])), PatchError, "run/patches/*"),
        "folder of drift": (with_run("drift", lambda run: list_additions([run])), PatchError, "classifier alone"),
        "folder of drift, by the ledger itself": (
            with_run("drift", lambda run: Ledger.open(run.parent / "ledger").add(run / "patches" / STEP)),
            PatchError,
            "whose patches change its classifier",
        ),
        "step without the earlier ones": (steps_of_a_sequence, PatchError, "give these before it"),
        "sum of patches": (with_file(lambda: ONE + ONE), PatchError, "add the patches that it is the sum of"),
        "part of a patch": (with_file(lambda: ONE.scaled(0.5)), PatchError, "0.5 times"),
        "path that is too long": (lambda _: Ledger.open("a" * 300), OutputError, "File name too long"),
        "patch at a path that is too long": (lambda _: active_at("a" * 300), OutputError, "File name too long"),
        **{
            f"records {records}": (with_records(records), PatchError, "make the patch again")
            for records in ([], [{"method": "rome"}], [{"edit": {"id": "e0"}, "method": "rome"}])
        },
        # Removals
        "id of two edits": (
            with_ledger(lambda ledger: [ledger.add(OTHER_WEIGHT), ledger.remove(["e0"])]),
            PatchError,
            "matches 2 edits; give one of 1/e0, 2/e0",
        ),
        "step of two settings": (of_two_settings, PatchError, "one patch file per method"),
        "edit of a graph without it": (of_a_graph, ConfigError, "graph"),
        "edit below a codebook without the model": (below_a_codebook, ConfigError, "give the unedited model"),
        "codebook in a merged model": (codebook_to_merge, PatchError, "can't be merged"),
        **{
            f"graph with another {field}": (
                lambda _, old=old, new=new: check_same_graph([HASHED, old], [HASHED, new]),  # type: ignore[func-returns-value]
                PatchError,
                field,
            )
            for field, old, new in OTHER_GRAPHS
        },
        "edit in place of its id": (
            with_ledger(lambda ledger: ledger.remove(edits_of(1)[0])),  # type: ignore[arg-type]
            PatchError,
            "such as edit.id",
        ),
        "unknown edit": (with_ledger(lambda ledger: ledger.remove(["1/e7"])), UnknownNameError, "known: e0"),
        "removed edit": (with_removal(lambda ledger: ledger.remove(["2/e2"])), PatchError, "is already removed"),
        "removed step": (with_removal(lambda ledger: ledger.remove(["e1", "2/*"])), PatchError, "is already removed"),
        "removal without the model": (
            with_ledger(lambda ledger: ledger.remove(["e0"])),
            ConfigError,
            "--model toy",
        ),
        "undo of nothing": (lambda folder: Ledger.open(folder / "new").undo(), PatchError, "nothing to undo"),
        "removal from nothing": (
            lambda folder: Ledger.open(folder / "new").remove("e0"),
            UnknownNameError,
            "unknown edit 'e0'",
        ),
    }
)
def test_mistake_is_refused(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
    assert not (tmp_path / "new").exists(), "a refused change makes no folder"


def test_paths_like_no_ledgers_are_new_ones(tmp_path: Path) -> None:
    Ledger.open(tmp_path / "ledger").add(ONE)
    (tmp_path / "files").mkdir()
    for path in ("ledger", "customers", "filess", "files/ledger"):
        open_store(tmp_path / path).refuse_misspelled()


def test_refused_change_leaves_the_ledger(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    file = ONE.save(tmp_path / "one.safetensors")
    ledger.add(file)
    before = content(ledger.folder)
    with pytest.raises(PatchError):
        ledger.add(file)
    with pytest.raises(UnknownNameError):
        ledger.remove(["e0", "e7"])
    assert content(ledger.folder) == before
    assert ledger.add(file, force=True) == 2
