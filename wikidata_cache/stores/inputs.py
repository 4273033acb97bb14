"""Find the files to load, and detect the kind of each file by its content, not by its name.

Kinds: N-Triples (such as Wikidata's RDF dumps), TSV rows of three ids, KGTK edges, Wikidata's JSON dump, and the
folders of CoDEx (https://github.com/tsafavi/codex). The `*negatives*` files of CoDEx are left out, because they have
false facts.

- `find_inputs` returns the files to load as `Input`s; `detect` finds the kind of one file.
- `is_graph_file` and `sibling_labels` are for files that are opened without `load`.
- `BadLines` counts the unreadable lines of a file, or raises an error at the first one.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kg_common.atomic import user_path
from wikidata_cache.errors import GraphFileError
from wikidata_cache.languages import DEFAULT_LANGUAGES, Languages, is_language
from wikidata_cache.stores import ntriples
from wikidata_cache.stores.chunks import Chunk, read_head
from wikidata_cache.stores.ntriples import BadLineHandler, LineTranslator
from wikidata_cache.stores.translators import check_array_closed, codex_labels, json_entities, kgtk_rows, plain_rows

logger = logging.getLogger(__name__)

_SPLITS = ("train.txt", "valid.txt", "test.txt")
_LABELS = ("entities", "relations", "types")

FileKind = Literal["N-Triples", "TSV", "KGTK", "JSON dump", "CoDEx labels"]

# Names of the files that a folder is searched for; a file that is given itself may have any name.
_LOADABLE = re.compile(r"\.(?:nt|tsv|json)(?:\.gz|\.bz2)?$", re.IGNORECASE)
_EXPECTED = (
    "N-Triples, a Wikidata dump (RDF as .nt, or JSON), rows such as Q42<tab>P31<tab>Q5, KGTK edges, or a CoDEx folder"
)
# A header with the columns node1, label and node2, in any order and among others. Each (?=…) finds one of them, and
# looks from the start of the line.
_KGTK = re.compile(rb"(?=(?:[^\n]*\t)?node1[\t\r\n])(?=(?:[^\n]*\t)?label[\t\r\n])(?=(?:[^\n]*\t)?node2[\t\r\n])")
# How a file of each kind begins. The first match wins, and the loosest pattern is last: KGTK's header is TSV too.
_BEGINNINGS: dict[FileKind, re.Pattern[bytes]] = {
    "N-Triples": re.compile(rb"\s*(?:<[^>]*>|_:\S+)[ \t]*<"),  # <http://…/Q42> <http://…/P31> <http://…/Q5> .
    "CoDEx labels": re.compile(rb'\s*\{\s*"[QP][0-9]+"\s*:'),  # {"Q42": {"label": "Douglas Adams", …
    "JSON dump": re.compile(rb'\s*(?:\[\s*(?:$|\{)|\{\s*"(?:type|id|pageid)")'),  # [, or {"type":"item","id":"Q42",…
    "KGTK": _KGTK,  # id<tab>node1<tab>label<tab>node2
    "TSV": re.compile(rb"[^\n\t]+\t[^\n]*"),  # Q42<tab>P31<tab>Q5
}
_TURTLE = re.compile(rb"\s*(?:@prefix|@base|prefix\s|base\s)", re.IGNORECASE)
# What may come before the content: a byte order mark, comments, and empty lines.
_PREFACE = re.compile(rb"(?:\xef\xbb\xbf)?(?:\s*#[^\n]*\n|\s*\n)*")

OPENED_WITHOUT_LOAD = (".nt", ".nt.gz", ".tsv", ".tsv.gz")  # endings of names
_SIBLINGS = ("labels.nt.gz", "labels.nt", "labels.tsv.gz", "labels.tsv")


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What to keep of the sources."""

    keep_all: bool = False  # every triple of N-Triples files
    values: bool = False  # dates and quantities of N-Triples files and JSON dumps too
    # The languages of the labels, aliases and descriptions to keep; None for all. The labels of TSV files, which are
    # English, are always kept. Of a CoDEx folder, the label files in these languages are read; a label file that is
    # given itself is kept in any language.
    languages: Languages | None = DEFAULT_LANGUAGES
    skip_bad_lines: bool = False  # leave out unreadable lines, instead of raising GraphFileError


@dataclass(frozen=True)
class Input:
    """A file to load, its kind, and its `header`, which is needed to read tables and JSON dumps.

    The header is the first line after comments and empty lines.

    `name` tells the file from the others of the load: it is the file's name, or the path if several have that name.
    """

    path: Path
    name: str
    kind: FileKind
    header: bytes

    def translate(self, options: LoadOptions, on_bad_line: BadLineHandler) -> LineTranslator:
        """Return the function from lines of the file to the N-Triples to keep.

        `on_bad_line` is called with the number of an unreadable line, and what is wrong with it.
        """
        translate = self._choose_translator(options, on_bad_line)
        if self.kind == "N-Triples":  # its translators read comments too, since the format has them
            return translate

        def translate_content(lines: bytes, first: int) -> list[bytes]:
            if first == 1:
                lines = _empty_preface(lines)
            return translate(lines, first)

        return translate_content

    def _choose_translator(self, options: LoadOptions, on_bad_line: BadLineHandler) -> LineTranslator:
        """Return the translator for this kind of file."""
        match self.kind:
            case "N-Triples" if options.keep_all:
                return ntriples.all_lines_translator(self.name, on_bad_line)
            case "N-Triples":
                return ntriples.wanted_lines_translator(on_bad_line, values=options.values, languages=options.languages)
            case "TSV":
                return plain_rows(self.header, on_bad_line)
            case "KGTK":
                return kgtk_rows(self.header, on_bad_line, languages=options.languages)
            case "JSON dump":
                return json_entities(on_bad_line, values=options.values, languages=options.languages)
            case "CoDEx labels":
                return codex_labels(self.path, on_bad_line)

    def watch_for_cut_off(self, chunks: Iterator[Chunk], bad_lines: BadLines) -> Iterator[Chunk]:
        """Yield the same chunks; report where a JSON array lacks its closing bracket."""
        if self.kind == "JSON dump" and self.header.lstrip().startswith(b"["):
            return check_array_closed(chunks, bad_lines.report_cut_off)
        return chunks


def find_inputs(sources: Iterable[str | Path], *, languages: Languages | None = DEFAULT_LANGUAGES) -> list[Input]:
    """Return the given files and the files of given folders, in order, each with its kind.

    Of a CoDEx folder, the label files in these languages are taken, or all for None.
    """
    files = list[Path]()
    for source in sources:
        path = user_path(source)
        if path.is_dir():
            files += _list_folder_files(path, languages)
        else:
            files.append(path)
    for file in files:
        if files.count(file) > 1:
            raise GraphFileError(file, "is given twice; give it once")
    names = Counter(file.name for file in files)
    inputs = []
    for file in files:
        name = file.name
        if names[name] > 1:
            name = str(file)
        inputs.append(detect(file, name))
    return inputs


def _list_folder_files(folder: Path, languages: Languages | None) -> list[Path]:
    """Return the files of a folder that can be loaded: those of CoDEx, or else those with a usual ending."""
    files = codex_files(folder, languages=languages)
    if not files:
        files = sorted(file for file in folder.iterdir() if _LOADABLE.search(file.name))
    if not files:
        raise GraphFileError(folder, f"contains nothing to load; expected {_EXPECTED}")
    return files


def codex_files(folder: Path, *, languages: Languages | None = DEFAULT_LANGUAGES) -> list[Path]:
    """Return the triples and label files of a CoDEx folder; [] for any other folder.

    The triples (train.txt, valid.txt, test.txt) are in the folder itself, in its folders ``triples/codex-*``, or in the
    same two places of its folder ``data``, as in CoDEx's repository. The labels are in folders such as ``entities/en``
    of the folder itself, or of ``data``. If the folder itself has triples, ``data`` is not searched.
    """
    for root in (folder, folder / "data"):
        splits = list[Path]()
        for triples in (root, *sorted((root / "triples").glob("codex-*"))):
            splits += [triples / name for name in _SPLITS if (triples / name).is_file()]
        if splits:
            return splits + _list_codex_label_files(root, languages)
    return []


def _list_codex_label_files(root: Path, languages: Languages | None) -> list[Path]:
    """Return CoDEx's label files in the wanted languages, such as ``entities/en/entities.json``."""
    labels = list[Path]()
    for part in _LABELS:
        wanted = languages
        if wanted is None:
            wanted = tuple(sorted(path.name for path in (root / part).glob("*") if is_language(path.name)))
        for language in wanted:
            labels += sorted((root / part / language).glob("*.json"))
    return labels


def detect(path: Path, name: str) -> Input:
    """Detect the kind of a file by its first bytes; `name` is that of the `Input`."""
    start = read_head(path)
    if not start.strip():
        raise GraphFileError(path, f"is empty; expected {_EXPECTED}")
    body = _PREFACE.sub(b"", start, count=1)
    if _TURTLE.match(body):
        raise GraphFileError(
            path, "is Turtle; convert it to N-Triples: oxigraph convert --from-file IN.ttl --to-file OUT.nt"
        )
    for kind, beginning in _BEGINNINGS.items():
        if beginning.match(body):
            header, _, _ = body.partition(b"\n")
            return Input(path, name, kind, header)
    raise GraphFileError(path, f"is not a graph: it begins with {start[:40]!r}; expected {_EXPECTED}")


def _empty_preface(lines: bytes) -> bytes:
    """Return the first chunk of a file with the comments before its content emptied, so that line numbers stay.

    b"# by hand\\nQ42\\tP31\\tQ5\\n" -> b"\\nQ42\\tP31\\tQ5\\n"
    """
    content = _PREFACE.sub(b"", lines, count=1)
    preface = lines[: len(lines) - len(content)]
    return b"\n" * preface.count(b"\n") + content


def is_graph_file(path: Path) -> bool:
    """Return whether the file's name ends in one of `OPENED_WITHOUT_LOAD`; such a file can be opened without `load`."""
    return path.name.lower().endswith(OPENED_WITHOUT_LOAD)


def sibling_labels(paths: Sequence[Path]) -> Path | None:
    """Return a labels file, such as labels.nt.gz, in the folder of a file or of its link's target, or None."""
    targets = [path.resolve() for path in paths]
    for folder in dict.fromkeys(path.parent for path in (*paths, *targets)):
        for name in _SIBLINGS:
            labels = folder / name
            if labels.is_file() and labels.resolve() not in targets:
                return labels
    return None


class BadLines:
    """The unreadable lines of a file. Translators call `report` for each one.

    Without `leave_out`, the first such line raises GraphFileError. With it, all of them are counted, and the first one
    is logged as a warning.
    """

    def __init__(self, path: Path, *, leave_out: bool) -> None:
        self._lines: list[int] = []  # their numbers: chunk by chunk, but within one chunk in any order
        self._path = path
        self._leave_out = leave_out

    def report(self, line: int, problem: str) -> None:
        """Report the unreadable line number `line` and its `problem`."""
        if not self._leave_out:
            suggestion = "Correct the line, or leave out such lines with --skip-bad-lines"
            raise GraphFileError(self._path, f"{problem}. {suggestion}", line=line)
        if not self._lines:
            logger.warning("%s, line %d: %s. Such lines are left out", self._path, line, problem)
        self._lines.append(line)

    @property
    def count(self) -> int:
        """The number of lines left out."""
        return len(self._lines)

    def count_up_to(self, line: int) -> int:
        """Return the number of lines left out up to line number `line`; later ones may have been read ahead.

        `line` has to be the last one of a chunk. Then all smaller numbers come before all greater ones.
        """
        return bisect_right(self._lines, line)

    def report_cut_off(self, line: int, problem: str) -> None:
        """Report that a file ends too early, at line number `line`."""
        if not self._leave_out:
            suggestion = "Fetch the file again, or load the part that is there with --skip-bad-lines"
            raise GraphFileError(self._path, f"{problem}. {suggestion}", line=line)
        logger.warning("%s, line %d: %s. The part that is there is loaded", self._path, line, problem)
