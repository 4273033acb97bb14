"""The files of a ledger: an append-only log, and patch files that never change.

    ledger.jsonl    {"version": 1, "number": 3, "time": "…", "kg_edit": "0.1.0", "event": "removed", …}
    patches/        0001.safetensors, 0002.safetensors, …

Each line of the log is one event (`Added`, `Removed`, `Undone`). `active_steps` computes the patches that are left
after all events. `Store` reads and writes the folder. `undo_last` appends the line that undoes the last event.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, RootModel

from kg_common.json_text import parse
from kg_edit.errors import DamagedLedgerError, LedgerChangedError, OutputError, PatchError
from kg_edit.patches.changes import Changes, read_changes
from kg_edit.patches.provenance import ORIGIN, about_merged
from kg_edit.storage.atomic import append_lines, drop_cut_line, replacing
from kg_edit.storage.locks import LOCK, folder_lock
from kg_edit.storage.run_folder import PATCH, is_run, read_settings
from kg_edit.version import __version__

if TYPE_CHECKING:  # a ledger is listed without torch
    from kg_edit.patches.base import Patch

VERSION = 1
LOG = "ledger.jsonl"
PATCHES = "patches"
REBASED = "rebase.json"  # of a rebased ledger: which models, and which edits the new one knew
BEFORE = "before"  # the folder of the ledger that it was made from
_NEAR = 0.8  # difflib's ratio of a misspelled name of a ledger to the right one
_WAIT = 5.0  # seconds until another writer is done
_AT_EVENT = re.compile(r"(?P<folder>.+)@(?P<event>[0-9]+)/?")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoredFile(_Frozen):
    """A patch file in the ledger's folder."""

    name: str = Field(pattern=r"^[0-9]{4,}\.safetensors$")
    sha256: str


class _EventFields(_Frozen):
    """The fields of all events: version of the format, number from 1 on, time (UTC), version of this program."""

    version: Literal[1]
    number: int
    time: str
    kg_edit: str


class Added(_EventFields):
    """A patch file was added as a step; the event's number identifies the step.

    ``after`` are the steps that the model had when the patch was computed; ``source`` is the name of the file from
    which it was copied; ``failed`` are the ids of the edits that failed in the run that made it.
    """

    event: Literal["added"] = "added"
    file: StoredFile
    after: tuple[int, ...] = ()
    source: str | None = None
    failed: tuple[str, ...] = Field((), exclude_if=lambda failed: not failed)


class Removed(_EventFields):
    """Edits were removed, each given by step and id.

    ``files`` has the new file of each changed step; None if the step has no edit left.
    """

    event: Literal["removed"] = "removed"
    edits: tuple[tuple[int, str], ...]
    files: dict[int, StoredFile | None]


class Undone(_EventFields):
    """An earlier event, given by its number, was undone."""

    event: Literal["undone"] = "undone"
    undoes: int


Event = Added | Removed | Undone


class Line(RootModel[Annotated[Event, Field(discriminator="event")]]):
    """A line of the log: one event; the field ``event`` gives its type."""


@dataclass(frozen=True, kw_only=True)
class PatchStep:
    """An active patch: its number, its file, the steps before it, and the edits that failed when it was made."""

    number: int
    file: StoredFile
    after: tuple[int, ...] = ()
    failed: tuple[str, ...] = ()


def stamp(number: int) -> dict[str, Any]:
    """Return the common fields of an event that happens now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"version": VERSION, "number": number, "time": now, "kg_edit": __version__}


def in_force(events: Iterable[Event]) -> tuple[Added | Removed, ...]:
    """Return the events that were not undone."""
    listed = tuple(events)
    undone = {event.undoes for event in listed if isinstance(event, Undone)}
    return tuple(event for event in listed if not isinstance(event, Undone) and event.number not in undone)


def active_steps(events: Iterable[Event]) -> tuple[PatchStep, ...]:
    """Return the steps whose sum is the ledger's patch, in the order in which they were added."""
    steps = dict[int, PatchStep]()
    for event in in_force(events):
        if isinstance(event, Added):
            steps[event.number] = PatchStep(
                number=event.number, file=event.file, after=event.after, failed=event.failed
            )
            continue
        for number, file in event.files.items():
            if number not in steps:
                raise DamagedLedgerError(
                    f"event {event.number} in the log removes edits from step {number}, which does not exist at that "
                    "point; restore the log from a backup"
                )
            if file is None:
                del steps[number]
            else:
                steps[number] = replace(steps[number], file=file)
    return tuple(steps.values())


@dataclass(eq=False)
class Store:
    """Reads and writes a ledger's folder.

    A patch file that no line of the log names was left by a kill, and is ignored.
    """

    folder: Path
    _seen: int = 0  # events that were in the log when it was last read; there are never fewer later
    _loaded: dict[str, Patch] = field(default_factory=dict)  # by sha256; stored files never change
    _changes: dict[str, Changes] = field(default_factory=dict)

    @property
    def exists(self) -> bool:
        """Whether the folder contains a ledger."""
        return (self.folder / LOG).is_file()

    def nearest(self) -> Path | None:
        """Return the ledger beside this folder that has nearly the same name, if there is one that can be read."""
        names = list[str]()
        with suppress(OSError):
            names = [path.name for path in self.folder.parent.iterdir()]
        for name in get_close_matches(self.folder.name, names, n=len(names) or 1, cutoff=_NEAR):
            with suppress(OSError):  # a folder of somebody else
                if Store(self.folder.with_name(name)).exists:
                    return self.folder.with_name(name)
        return None

    def check_folder(self, *, create: bool) -> None:
        """Refuse a path that has no ledger, unless ``create`` is set and one can be made."""
        try:
            is_file = self.folder.exists() and not self.folder.is_dir()
            exists = self.exists
            names = self._list_names()
        except OSError as error:
            raise OutputError(f"can't read {self.folder}: {error.strerror}; give another folder") from error
        if is_file:
            raise OutputError(f"{self.folder} is a file; give a folder for the ledger")
        self._refuse_lost_log()
        if is_run(self.folder) and read_settings(self.folder).get("job") == "edit" and PATCH not in names:
            raise OutputError(f"{self.folder} is a run that is not finished; give its `kg-edit edit` command again")
        if exists:
            return
        self._refuse_earlier_state()
        if names and names != [PATCHES]:  # a folder for patches that has none is as good as an empty folder
            self._refuse_other_files(names, create=create)
        if not create:
            near = self.nearest()
            hint = f", did you mean {near}?" if near else ";"
            way = f"kg-edit patch add {quote(str(self.folder))} {PATCH}"
            raise PatchError(f"there is no ledger at {self.folder}{hint} {way} makes one")

    def _refuse_earlier_state(self) -> None:
        """Refuse ``ledger@3``: only the present state of a ledger can be changed."""
        folder, event = split_event(self.folder)
        if event is not None and Store(folder).exists:
            raise PatchError(f"{self.folder} is an earlier state of {folder}, which can't be changed; give {folder}")

    def _list_names(self) -> list[str]:
        """Return the names in the folder, without hidden ones; [] for a path that is not a folder."""
        if not self.folder.is_dir():
            return []
        return [path.name for path in self.folder.iterdir() if not path.name.startswith(".")]

    def _refuse_other_files(self, names: Sequence[str], *, create: bool) -> NoReturn:
        """Refuse a folder that has files of these ``names``, but no ledger."""
        if create:
            raise OutputError(f"{self.folder} is not empty and has no ledger ({LOG}); give another folder")
        if {ORIGIN, "config.json"} <= set(names):
            raise PatchError(about_merged(self.folder))
        if PATCH in names:
            raise PatchError(f"{self.folder} has no ledger ({LOG}); check the path")
        raise PatchError(f"{self.folder} has no {PATCH} and no ledger ({LOG}); check the path")

    def refuse_misspelled(self) -> None:
        """Refuse a path that looks misspelled and has no folder: a service would serve the unedited model instead."""
        folder = self.folder
        if folder.exists():
            return
        if not folder.parent.is_dir():
            raise PatchError(f"there is no ledger at {folder}: the folder {folder.parent} is missing; check the path")
        if self.nearest():
            self.check_folder(create=False)

    def _refuse_lost_log(self) -> None:
        """Refuse a folder of patches without their log.

        Which of the patches are active is not known, and none of them may be overwritten.
        """
        stored = () if self.exists else self._stored()
        if not stored:
            return
        files = f"{quote(str(self.folder / PATCHES))}/*.safetensors"
        refuse_drift(self.folder)
        if is_run(self.folder):
            raise PatchError(
                f"{self.folder} is a run of `kg-edit evaluate`, which is not a ledger; start one with its patches: "
                f"kg-edit patch add NEW {files}"
            )
        if len(stored) == 1:
            patches = "1 stored patch"
        else:
            patches = f"{len(stored)} stored patches"
        raise DamagedLedgerError(
            f"{self.folder} has {patches}, but its log ({LOG}), which records which patches are active, is missing; "
            "restore the log from a backup, or start a new ledger with the patches that you want: "
            f"kg-edit patch add NEW {files}"
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other writers out of it during the ``with`` block.

        The system releases the lock of a killed process. If the block raises, a folder that was made for it is removed
        again, unless it has a ledger by then.
        """
        is_new = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"can't make {self.folder}: {error.strerror}; give another folder") from error
        with folder_lock(self.folder, wait=_WAIT):
            try:
                self._refuse_lost_log()
                yield
            except BaseException:
                with suppress(OSError):
                    if is_new and [path.name for path in self.folder.iterdir()] == [LOCK]:
                        (self.folder / LOCK).unlink()
                        self.folder.rmdir()
                raise

    def events(self) -> tuple[Event, ...]:
        """Return the events of all complete lines. An incomplete last line, left by a kill, is ignored."""
        path = self.folder / LOG
        seen = self._seen  # before the file is read, because another thread may append and read meanwhile
        events = list[Event]()
        for number, line in enumerate(self._read_lines(), 1):
            events.append(_read_event(line, f"{path}, line {number}"))
        if [event.number for event in events] != list(range(1, len(events) + 1)):
            raise DamagedLedgerError(f"{path}: its lines are not numbered 1, 2, 3 …; restore the file from a backup")
        if len(events) < seen:  # a server would answer without the edits
            raise DamagedLedgerError(
                f"{path} had {seen} events when it was read before, and has {len(events)} now; restore the file "
                "from a backup, or start this program again to use the ledger as it is"
            )
        self._seen = max(self._seen, len(events))
        return tuple(events)

    def _read_lines(self) -> list[bytes]:
        """Return the complete lines of the log; [] if there is no log and there are no patches."""
        path = self.folder / LOG
        try:
            content = path.read_bytes()  # bytes, because a kill may cut inside a character
        except FileNotFoundError:
            self._refuse_lost_log()
            return []
        except OSError as error:
            raise DamagedLedgerError(f"can't read {path}: {error.strerror}; check the path") from error
        *lines, _incomplete = content.split(b"\n")  # b"" after a complete last line
        return lines

    def append(self, *events: Event) -> None:
        """Write events, all of them in one write; when this returns, they are on disk. Needs the lock."""
        drop_cut_line(self.folder / LOG)
        append_lines(self.folder / LOG, [event.model_dump_json() for event in events])

    def put_all(self, patches: Iterable[Patch | Path]) -> list[StoredFile]:
        """Store each patch, or an unchanged copy of a patch file, as the next file. Needs the lock.

        If one can't be written, none is stored.
        """
        stored = list[StoredFile]()
        targets = list[Path]()
        try:
            for number, patch in enumerate(patches, self._next_number()):
                target = self.folder / PATCHES / f"{number:04}.safetensors"
                targets.append(target)
                append_lines(self.folder / LOG, ())  # make the log first: a kill must not leave files without it
                _write(patch, target)
                stored.append(StoredFile(name=target.name, sha256=sha256_of(target)))
        except BaseException:  # also Ctrl-C
            for target in targets:
                target.unlink(missing_ok=True)
            raise
        return stored

    def _next_number(self) -> int:
        """Return the number of the next patch file, after all files in the log and in the folder.

        If the log is an older copy, the folder has files that the log doesn't name, which must not be overwritten.
        """
        names = [path.name for path in self._stored()]
        for event in self.events():
            if isinstance(event, Added):
                names.append(event.file.name)
            elif isinstance(event, Removed):
                names += [file.name for file in event.files.values() if file]
        largest = 0
        for name in names:
            stem = name.removesuffix(".safetensors")
            if stem.isdecimal():
                largest = max(largest, int(stem))
        return largest + 1

    def _stored(self) -> tuple[Path, ...]:
        """Return the patch files in the folder, without those that are still being written."""
        return tuple(path for path in (self.folder / PATCHES).glob("*.safetensors") if path.name[0] != ".")

    def path(self, file: StoredFile) -> Path:
        """Return the path of a stored patch file."""
        return self.folder / PATCHES / file.name

    def get(self, file: StoredFile) -> Patch:
        """Load a stored patch."""
        if file.sha256 not in self._loaded:
            from kg_edit.patches.base import Patch

            self._loaded[file.sha256] = Patch.load(self._unchanged(file))
        return self._loaded[file.sha256]

    def changes(self, file: StoredFile) -> Changes:
        """Read the changes of a stored patch, without torch."""
        if file.sha256 not in self._changes:
            self._changes[file.sha256] = read_changes(self._unchanged(file))
        return self._changes[file.sha256]

    def _unchanged(self, file: StoredFile) -> Path:
        """Return the path of a stored patch file, after checking that it was not changed."""
        path = self.path(file)
        if not path.is_file():
            raise DamagedLedgerError(f"{path} is missing; restore it from a backup")
        if sha256_of(path) != file.sha256:
            what = f"was changed since it was stored (sha256 {file.sha256})"
            raise DamagedLedgerError(f"{path} {what}; restore it from a backup")
        return path


def _write(patch: Patch | Path, target: Path) -> None:
    """Write a patch, or an unchanged copy of a patch file, and wait until it is on disk."""
    if isinstance(patch, Path):
        with replacing(target) as scratch:
            shutil.copyfile(patch, scratch)
    else:
        patch.save(target)
    try:
        with target.open("rb+") as file:
            os.fsync(file)
    except OSError as error:
        raise OutputError(f"can't write {target}: {error.strerror or error}; free some space") from error


def refuse_drift(folder: Path) -> None:
    """Refuse a folder whose patches change a classifier instead of a language model."""
    if is_run(folder) and read_settings(folder).get("job") == "drift":
        raise PatchError(
            f"{folder} is a run of `kg-edit drift`, whose patches change its classifier alone; give a ledger, or a "
            "patch of `kg-edit edit`"
        )


def _read_event(line: bytes, where: str) -> Event:
    """Read a line of the log; ``where`` is the file and the line, for the error."""
    try:
        value = parse(line)
        version = value.get("version") if isinstance(value, dict) else None
        if isinstance(version, int) and version > VERSION:
            raise DamagedLedgerError(
                f"{where}: version {version} of the format, and this program reads version {VERSION}; install a later "
                "kg-edit"
            )
        return Line.model_validate(value).root
    except ValueError as error:  # not JSON, not text, or not an event
        raise DamagedLedgerError(f"{where}: not a valid event of a ledger; restore the file from a backup") from error


def split_event(path: str | Path) -> tuple[Path, int | None]:
    """Return the folder and the event of ``ledger@3``; None if the path exists as it is, or names no event."""
    named = _AT_EVENT.fullmatch(str(path))
    if named is None or Path(path).exists():
        return Path(path), None
    return Path(named["folder"]), int(named["event"])


def open_store(path: str | Path, *, create: bool = True) -> Store:
    """Open the files of the ledger at a path."""
    store = Store(Path(path))
    store.check_folder(create=create)
    return store


def undo_last(store: Store, expected: int | None = None) -> Event:
    """Undo the last event of a ledger that was not undone yet, and return it: `Ledger.undo`, but without torch.

    ``expected`` is the number that this event should have, as the caller has seen the ledger; None: no check.
    """
    with store.locked():
        events = store.events()
        remaining = in_force(events)
        if not remaining:
            raise PatchError(f"there is nothing to undo in {store.folder}")
        last = remaining[-1]
        if expected not in (None, last.number):
            raise LedgerChangedError("the ledger has changed since it was shown; look at it again before you undo")
        store.append(Undone(**stamp(len(events) + 1), undoes=last.number))
    return last


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PatchError(f"can't read {path}: {error.strerror}; check the path") from error
