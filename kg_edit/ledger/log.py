"""The files of a ledger: a log, to which lines are only added, and patch files, which are never changed.

Events (`Added`, `Removed`, `Undone`) are the lines of the log; `standing` says which patches are left after them.
`Store` reads and writes the folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from kg_edit import __version__
from kg_edit.errors import OutputError, PatchError
from kg_edit.patches.changes import Changes, read_changes
from kg_edit.storage.atomic import append_lines, drop_cut_line, replacing
from kg_edit.storage.run_folder import folder_lock

if TYPE_CHECKING:  # a ledger is listed without torch
    from kg_edit.patches.base import Patch


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoredFile(_Said):
    """A patch file in the ledger's folder."""

    name: str = Field(pattern=r"^[0-9]{4,}\.safetensors$")
    sha256: str


class _Happened(_Said):
    """What all events say: their number from 1 on, when they happened (UTC), and by which version of this tool."""

    number: int
    time: str
    kg_edit: str


class Added(_Happened):
    """A patch file was added: a step, known by the event's number.

    ``after`` are the steps whose changes the model had in it while the patch was computed; ``source`` the file it
    was copied from.
    """

    event: Literal["added"] = "added"
    file: StoredFile
    after: tuple[int, ...] = ()
    source: str | None = None


class Removed(_Happened):
    """Edits were removed, each named by its step and its id; ``files`` says what every step became (None: nothing)."""

    event: Literal["removed"] = "removed"
    edits: tuple[tuple[int, str], ...]
    files: dict[int, StoredFile | None]


class Undone(_Happened):
    """An earlier event, named by its number, was taken back."""

    event: Literal["undone"] = "undone"
    undoes: int


Event = Added | Removed | Undone


class Line(RootModel[Annotated[Event, Field(discriminator="event")]]):
    """A line of the log: one event, told apart by its field ``event``."""


@dataclass(frozen=True, kw_only=True)
class PatchStep:
    """A patch of the ledger as it stands: its number, its file, and the steps that it was computed after."""

    number: int
    file: StoredFile
    after: tuple[int, ...] = ()


def stamp(number: int) -> dict[str, Any]:
    """What an event that happens now says of itself."""
    return {"number": number, "time": datetime.now(UTC).isoformat(timespec="seconds"), "kg_edit": __version__}


def in_force(events: Iterable[Event]) -> tuple[Added | Removed, ...]:
    """The events that were not taken back."""
    listed = tuple(events)
    undone = {event.undoes for event in listed if isinstance(event, Undone)}
    return tuple(event for event in listed if not isinstance(event, Undone) and event.number not in undone)


def standing(events: Iterable[Event]) -> tuple[PatchStep, ...]:
    """The steps whose sum the ledger is, in the order in which they were added.

    Raises:
        PatchError: a removal is about a step that is not there.
    """
    steps = dict[int, PatchStep]()
    for event in in_force(events):
        if isinstance(event, Added):
            steps[event.number] = PatchStep(number=event.number, file=event.file, after=event.after)
            continue
        for number, file in event.files.items():
            if number not in steps:
                raise PatchError(
                    f"the log says that event {event.number} took edits out of step {number}, which did not stand "
                    "then; restore the log from a copy"
                )
            if file is None:
                del steps[number]
            else:
                steps[number] = replace(steps[number], file=file)
    return tuple(steps.values())


LOG, PATCHES = "ledger.jsonl", "patches"
_WAIT = 5.0  # seconds


@dataclass(frozen=True, eq=False)
class Store:
    """Reads and writes the folder. A file that no line of the log names was left by a kill, and is nobody's."""

    folder: Path
    _loaded: dict[str, Patch] = field(default_factory=dict)  # by sha256: a file never changes
    _changes: dict[str, Changes] = field(default_factory=dict)

    @property
    def is_there(self) -> bool:
        """Whether the folder holds a ledger."""
        return (self.folder / LOG).is_file()

    def check_place(self) -> None:
        """Refuse a place where no ledger is, and none can be made.

        Raises:
            OutputError: it is a file, a folder with something else in it, or can't be read.
            PatchError: patches are stored there, and their log is gone.
        """
        try:
            is_file, there = self.folder.exists() and not self.folder.is_dir(), self.is_there
            shown = [path.name for path in self.folder.iterdir() if path.name[0] != "."] if self.folder.is_dir() else []
        except OSError as error:
            raise OutputError(f"can't read {self.folder}: {error.strerror}; give another folder") from error
        if is_file:
            raise OutputError(f"{self.folder} is a file; a ledger is a folder")
        self._check_log()
        if shown and not there and shown != [PATCHES]:
            raise OutputError(f"{self.folder} is not empty and holds no ledger ({LOG}); give another folder")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers out; makes the folder. A killed process keeps none out.

        Raises:
            OutputError: another process writes to the ledger, or the folder can't be made.
            PatchError: patches are stored in it, and their log is gone.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"can't make {self.folder}: {error.strerror}; give another folder") from error
        with folder_lock(self.folder, wait=_WAIT):
            self._check_log()
            yield

    def events(self) -> tuple[Event, ...]:
        """All whole lines of the log; a last line that was cut off by a kill did not happen.

        Raises:
            PatchError: the log can't be read, a line is no event, or does not follow the one before.
        """
        path = self.folder / LOG
        *lines, _ = _content(path).split(b"\n")  # bytes: a kill may cut within a letter
        found = tuple(_event(line, f"{path}, line {number}") for number, line in enumerate(lines, 1))
        if [event.number for event in found] != list(range(1, len(found) + 1)):
            raise PatchError(f"{path}: its lines are not numbered 1, 2, 3 …; restore it from a copy")
        return found

    def append(self, *events: Event) -> None:
        """Write events, all of them in one write; when this returns, they are on the disk. Needs the lock.

        Raises:
            OutputError: they can't be written; the ledger is as it was.
        """
        drop_cut_line(self.folder / LOG)
        append_lines(self.folder / LOG, [event.model_dump_json() for event in events])

    def put_all(self, patches: Sequence[Patch | Path]) -> list[StoredFile]:
        """`put` each patch as the next file; where one can't be written, none is left. Needs the lock.

        Raises:
            PatchError, OutputError: as `put`.
        """
        first, stored = self.next_file(), list[StoredFile]()
        try:
            for number, patch in enumerate(patches, first):
                stored.append(self.put(patch, number=number))
        except (PatchError, OutputError):
            for file in stored:
                self.path(file).unlink(missing_ok=True)
            raise
        return stored

    def put(self, patch: Patch | Path, *, number: int) -> StoredFile:
        """Store a patch, or a file of one as it is, as file ``number``. Needs the lock.

        Raises:
            PatchError: a value is not finite, or the patch is one of several kinds.
            OutputError: the file can't be written.
        """
        target = self.folder / PATCHES / f"{number:04}.safetensors"
        append_lines(self.folder / LOG, ())  # there before the first file: one without a log has lost it, by no kill
        if isinstance(patch, Path):
            with replacing(target) as scratch:
                shutil.copyfile(patch, scratch)
        else:
            patch.save(target)
        with target.open("rb+") as file:
            os.fsync(file)
        return StoredFile(name=target.name, sha256=sha256_of(target))

    def next_file(self) -> int:
        """The number after those of all files, of whatever the log names and of what else lies in the folder."""
        events = self.events()
        named = [event.file for event in events if isinstance(event, Added)]
        named += [file for event in events if isinstance(event, Removed) for file in event.files.values() if file]
        stems = [Path(file.name).stem for file in named] + [path.stem for path in self._stored()]
        return 1 + max((int(stem) for stem in stems if stem.isdecimal()), default=0)

    def _stored(self) -> tuple[Path, ...]:
        """The patch files in the folder, without what is still being written."""
        return tuple(path for path in (self.folder / PATCHES).glob("*.safetensors") if path.name[0] != ".")

    def _check_log(self) -> None:
        """Refuse a folder of patches without their log: what stands can't be known, and nothing may be overwritten."""
        if not self.is_there and (stored := self._stored()):
            files = self.folder / PATCHES / "*.safetensors"
            raise PatchError(
                f"{self.folder} holds {len(stored)} stored patch{'es' * (len(stored) > 1)}, and the log ({LOG}) that "
                "says which of them stand is gone; restore it from a copy, or begin a new ledger with those that shall "
                f"stand: kg-edit patch add NEW {files}"
            )

    def path(self, file: StoredFile) -> Path:
        """The path of a stored patch file."""
        return self.folder / PATCHES / file.name

    def get(self, file: StoredFile) -> Patch:
        """A stored patch.

        Raises:
            PatchError: the file is missing, or not what was stored.
        """
        if file.sha256 not in self._loaded:
            from kg_edit.patches.base import Patch

            self._loaded[file.sha256] = Patch.load(self._unchanged(file))
        return self._loaded[file.sha256]

    def changes(self, file: StoredFile) -> Changes:
        """What a stored patch changes, read without torch.

        Raises:
            PatchError: as `get`.
        """
        if file.sha256 not in self._changes:
            self._changes[file.sha256] = read_changes(self._unchanged(file))
        return self._changes[file.sha256]

    def _unchanged(self, file: StoredFile) -> Path:
        """The path of a stored patch file, which is what was stored if it is there."""
        path = self.path(file)
        if path.is_file() and sha256_of(path) != file.sha256:
            raise PatchError(f"{path} was changed since it was stored (sha256 {file.sha256}); restore it")
        return path


def open_store(path: str | Path, *, create: bool = True) -> Store:
    """The files of the ledger at a path.

    Raises:
        OutputError: something else is there.
        PatchError: nothing is there, and none shall be created; or patches without the log of what was done.
    """
    store = Store(Path(path))
    store.check_place()
    if not create and not store.is_there:
        raise PatchError(f"there is no ledger at {path}; make one: kg-edit patch add {path} patch.safetensors")
    return store


def refuse_twice(source: Path, steps: Iterable[PatchStep]) -> None:
    """Refuse a file that is one of the steps already.

    Raises:
        PatchError: it is.
    """
    digest = sha256_of(source)
    for step in steps:
        if step.file.sha256 == digest:
            raise PatchError(f"{source} is here already, as step {step.number}; --force (force=True) adds it twice")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        PatchError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PatchError(f"can't read {path}: {error.strerror}; check the path") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise PatchError(f"can't read {path}: {error.strerror}; check the path") from error


def _event(line: bytes, place: str) -> Event:
    try:
        return Line.model_validate_json(line.decode()).root
    except (UnicodeDecodeError, ValidationError) as error:
        raise PatchError(f"{place}: no event of a ledger; restore the file from a copy") from error
