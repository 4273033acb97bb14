"""What can be loaded: which files were meant, and what each is, by its content.

CoDEx folders: which of their files are facts and labels. Their `*negatives*` are false facts and stay out.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wikidata_cache.errors import GraphFileError
from wikidata_cache.ids import LANGUAGES, is_entity
from wikidata_cache.stores import ntriples
from wikidata_cache.stores.chunks import Chunk, head
from wikidata_cache.stores.json_dump import entities, to_the_end
from wikidata_cache.stores.ntriples import Bad, Translate, text_line
from wikidata_cache.stores.tables import kgtk_rows, plain_rows

_SPLITS = ("train.txt", "valid.txt", "test.txt")
_LABELS = ("entities", "relations", "types")


def codex_files(folder: Path) -> list[Path]:
    """The splits and the label files of a CoDEx folder, flat or as in its repository; [] where it is none."""
    for root in (folder, folder / "data"):
        triples = [*(root / "triples").glob("codex-*"), root]
        splits = [folder / name for folder in sorted(triples) for name in _SPLITS if (folder / name).is_file()]
        if splits:
            return splits + list(_label_files(root))
    return []


def _label_files(root: Path) -> Iterator[Path]:
    for part in _LABELS:
        for language in LANGUAGES:
            yield from sorted((root / part / language).glob("*.json"))


def codex_labels(path: Path, bad: Bad) -> Translate:
    """Reads a whole file `{id: {"label": …, "description": …}}` in the language of its folder's name, else English."""
    language = path.parent.name if path.parent.name in LANGUAGES else LANGUAGES[0]

    def translate(text: bytes, first: int) -> list[bytes]:
        try:
            found = json.loads(text)
            return [line for entity, said in found.items() for line in _lines(entity, said, language)]
        except json.JSONDecodeError as error:
            bad(error.lineno, f"is not JSON: {error.msg}")
        except (ValueError, AttributeError, TypeError) as error:
            bad(first, f"expected {{id: {{'label': text, 'description': text}}}} ({error})")
        return []

    return translate


def _lines(entity: str, said: dict[str, str | None], language: str) -> Iterator[bytes]:
    for kind in ("label", "description"):
        text = said.get(kind)
        if is_entity(entity) and text and text.strip():
            yield text_line(entity, kind, text, language)


logger = logging.getLogger(__name__)

Kind = Literal["N-Triples", "TSV", "KGTK", "JSON dump", "CoDEx labels"]

_NAMES = re.compile(r"\.(?:nt|tsv|json)(?:\.gz|\.bz2)?", re.IGNORECASE)
_EXPECTED = (
    "N-Triples, a Wikidata dump (RDF as .nt, or JSON), rows such as Q42<tab>P31<tab>Q5, KGTK edges, or a CoDEx folder"
)
_FORMS: dict[Kind, re.Pattern[bytes]] = {
    "N-Triples": re.compile(rb"\s*(?:<[^>]*>|_:\S+)[ \t]*<"),
    "CoDEx labels": re.compile(rb'\s*\{\s*"[QP][0-9]+"\s*:'),
    "JSON dump": re.compile(rb'\s*(?:\[\s*(?:$|\{)|\{\s*"(?:type|id|pageid)")'),
    "KGTK": re.compile(rb"(?=[^\n]*\bnode1\b)(?=[^\n]*\blabel\b)(?=[^\n]*\bnode2\b)[^\n]*\t"),
    "TSV": re.compile(rb"[^\n\t]+\t[^\n]*"),
}
_TURTLE = re.compile(rb"\s*(?:@prefix|@base|prefix\s|base\s)", re.IGNORECASE)
_COMMENTS = re.compile(rb"(?:\xef\xbb\xbf)?(?:\s*#[^\n]*\n|\s*\n)*")


@dataclass(frozen=True)
class Input:
    """A file to load, what it is, and its first line where that says how to read the rest."""

    path: Path
    kind: Kind
    header: bytes = b""

    def translate(self, languages: Collection[str], *, keep_all: bool, bad: Bad) -> Translate:
        """What turns the file's lines into those lines of N-Triples that are kept."""
        if self.kind == "N-Triples" and keep_all:
            return ntriples.keeper(self.path.name, bad)
        makers: dict[Kind, Callable[[], Translate]] = {
            "N-Triples": lambda: ntriples.translator(languages, bad),
            "TSV": lambda: plain_rows(bad),
            "KGTK": lambda: kgtk_rows(self.header, languages, bad),
            "JSON dump": lambda: entities(languages, bad),
            "CoDEx labels": lambda: codex_labels(self.path, bad),
        }
        return makers[self.kind]()

    def checked(self, chunks: Iterator[Chunk], bad: BadLines) -> Iterator[Chunk]:
        """The same chunks; `bad` is told where a file that has to say that it ends does not say so."""
        is_array = self.kind == "JSON dump" and self.header.lstrip().startswith(b"[")
        return to_the_end(chunks, bad.cut_off) if is_array else chunks


class BadLines:
    """Told of lines that cannot be read: ends the loading with GraphFileError, or leaves them out and counts them."""

    def __init__(self, path: Path, *, leave_out: bool) -> None:
        self.count = 0
        self._path = path
        self._leave_out = leave_out

    def __call__(self, line: int, problem: str) -> None:
        """The number of a line and what is wrong with it; raises GraphFileError unless such lines are left out."""
        if not self._leave_out:
            way_out = "Correct it, or leave such lines out with --skip-bad-lines"
            raise GraphFileError(self._path, f"{problem}. {way_out}", line=line)
        if not self.count:
            logger.warning("%s, line %d: %s. Such lines are left out", self._path, line, problem)
        self.count += 1

    def cut_off(self, line: int, problem: str) -> None:
        """The last line of a file that ends too early; raises GraphFileError unless what is there is to be taken."""
        if not self._leave_out:
            way_out = "Fetch the file again, or take what is there with --skip-bad-lines"
            raise GraphFileError(self._path, f"{problem}. {way_out}", line=line)
        logger.warning("%s, line %d: %s. What is there is taken", self._path, line, problem)


def find_inputs(sources: Iterable[Path]) -> list[Input]:
    """The files that were given, and those in the folders that were given, each with its kind.

    Raises GraphFileError where one is missing, empty, of no known kind, or given twice.
    """
    files = [file for source in sources for file in _files(source.expanduser())]
    for file in files:
        if files.count(file) > 1:
            raise GraphFileError(file, "is given twice; give it once")
    return [detect(file) for file in files]


def detect(path: Path) -> Input:
    """What a file is, by its content; raises GraphFileError where it is nothing that can be loaded."""
    start = head(path)
    if not start.strip():
        raise GraphFileError(path, f"is empty; expected {_EXPECTED}")
    body = _COMMENTS.sub(b"", start, count=1)
    if _TURTLE.match(body):
        raise GraphFileError(
            path, "is Turtle; turn it into N-Triples: oxigraph convert --from-file IN.ttl --to-file OUT.nt"
        )
    for kind, form in _FORMS.items():
        if form.match(body):
            return Input(path, kind, (body if kind == "JSON dump" else start).partition(b"\n")[0])
    raise GraphFileError(path, f"is no graph: it begins with {start[:40]!r}; expected {_EXPECTED}")


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    files = codex_files(source) or sorted(file for file in source.iterdir() if _NAMES.search(file.name))
    if not files:
        raise GraphFileError(source, f"holds nothing to load; expected {_EXPECTED}")
    return files


SUFFIXES = (".nt", ".nt.gz", ".tsv", ".tsv.gz")
_SIBLINGS = ("labels.nt.gz", "labels.nt", "labels.tsv.gz", "labels.tsv")


def is_graph_file(path: Path) -> bool:
    """Whether the file's name says that it can be loaded."""
    return path.name.lower().endswith(SUFFIXES)


def sibling_labels(paths: Sequence[Path]) -> Path | None:
    """A labels file beside one of the files, or beside the target of one that is a symbolic link."""
    targets = [path.resolve() for path in paths]
    folders = dict.fromkeys(path.parent for path in (*paths, *targets))
    candidates = (folder / name for folder in folders for name in _SIBLINGS)
    return next((path for path in candidates if path.is_file() and path.resolve() not in targets), None)
