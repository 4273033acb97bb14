"""What sources, caches, stores and files of edits refuse: a mistake, the class of its error, and the word one needs."""

from __future__ import annotations

import bz2
import errno
import gzip
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyoxigraph import Store

from tests.refusals import Call, check_refused, put, refusals
from tests.wikidata_cache.answers.test_store import filled
from tests.wikidata_cache.fault_server import hasty
from tests.wikidata_cache.stores.test_load_faults import GOOD
from tests.wikidata_cache.test_cache import EDIT
from tests.wikidata_cache.wikidata_helpers import EDITS, TOY, Edit, facts, run_cli, save_facts, write_edits
from wikidata_cache import SubgraphOptions, WikidataCache, open_source, packaged_extract
from wikidata_cache.answers.modes import effective_mode
from wikidata_cache.answers.snapshot import import_snapshot
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.edits import read_edits
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.errors import (
    AmbiguousLabelError,
    BadOptionError,
    CacheFileError,
    CacheMissError,
    DenyListError,
    EditRowError,
    EndpointError,
    EntityNotInGraphError,
    GraphFileError,
    LabelIndexError,
    MissingContactError,
    PrivateGraphError,
    SnapshotError,
    SourceStringError,
    StoreError,
    TruthyOnlyError,
    UnknownLabelError,
    WikidataCacheError,
)
from wikidata_cache.labels.label_index import LabelEntry, build_label_index
from wikidata_cache.languages import check_languages, language_chain
from wikidata_cache.sources.source import Exchange, Fact
from wikidata_cache.stores.engine import store_write_errors
from wikidata_cache.stores.load import load
from wikidata_cache.subgraphs.options import Leakage

Row = tuple[Call, type[Exception], str]
NAME = LabelEntry("Q65", "Los Angeles", "en", "label")
LABEL = Fact("label", "Q1", ["Universe", "en"])
ASKED = Exchange("http://e/sparql", "SELECT 1", "2026-11-20T12:00:00.000+00:00", 12, 3, "0" * 64, {"server": "x"})


def source(text: Any) -> Call:
    return lambda _: open_source(text)


def empty_store(folder: Path) -> object:
    Store(str(folder / "empty")).flush()
    return open_source(f"oxigraph:{folder / 'empty'}")


def other_file(folder: Path) -> object:
    """A file that is no graph by its name."""
    shutil.copy(packaged_extract(), folder / "graph.ttl")
    return open_source(folder / "graph.ttl")


def below_a_file(folder: Path, name: str) -> Path:
    """A path that can't be made, because its folder is a file."""
    return put(folder, "file") / name


def open_half_a_store(folder: Path) -> object:
    (folder / "half.loading").mkdir()  # where `load` works
    return open_source(folder / "half")


SOURCES: dict[str, Row] = {
    "store that is not there": (
        lambda folder: open_source(f"oxigraph:{folder / 'none'}"),
        SourceStringError,
        "not an Oxigraph store",
    ),
    "store without triples": (empty_store, SourceStringError, "contains no triples"),
    "folder without a graph": (open_source, SourceStringError, "no graph file"),
    "store that is not loaded completely": (open_half_a_store, StoreError, "wikidata-cache load"),
    "unknown name": (source("wikidata"), SourceStringError, "is not a source; expected extract"),
    # and not the current folder
    "two empty names": (source(" , "), SourceStringError, "empty source"),
    "empty name": (source(""), SourceStringError, "empty source"),
    "space": (source(" "), SourceStringError, "empty source"),
    "nothing in memory": (source("memory:"), SourceStringError, "empty source"),
    "empty name in a list": (source([packaged_extract(), ""]), SourceStringError, "empty source"),
    "file and endpoint": (source([packaged_extract(), "http://127.0.0.1:1/query"]), SourceStringError, "combined"),
    "half an IPv6 address": (source("http://[::1/query"), SourceStringError, "is not the address of an endpoint"),
    "address without a host": (source("http:///query"), SourceStringError, "is not the address of an endpoint"),
    "port that is too large": (source("http://127.0.0.1:99999/"), SourceStringError, "is not the address of an"),
    "host with a space": (source("https://a b/"), SourceStringError, "is not the address of an endpoint"),
    "absent graph": (
        lambda folder: open_source(str(folder / "absent.nt.gz")),
        GraphFileError,
        "absent.nt.gz: does not exist",
    ),
    "file of another kind": (other_file, GraphFileError, "graph.ttl: is not a graph file"),
    "endless row": (
        lambda folder: open_source(put(folder, "graph.tsv", b"Q1\tP1\t" + b"Q" * 3_000_000)),
        GraphFileError,
        "line 1: has a line of more than",
    ),
    "version of a file": (
        lambda folder: open_source(put(folder, "g.tsv", "Q1\tP1\tQ2\n"), as_of="2026-11-20"),
        BadOptionError,
        "is a local graph without versions",
    ),
}
FILES: dict[str, Row] = {
    "absent edits": (lambda folder: read_edits(folder / "absent.jsonl"), EditRowError, "no such file; check the path"),
    "folder as edits": (read_edits, EditRowError, "is a folder; expected a file of edits"),
    "folder as a cache": (
        lambda folder: AnswerStore(folder).look_up("wikidata", "label", ["Q1"]),
        CacheFileError,
        "is a folder",
    ),
    "cache below a file": (
        lambda folder: AnswerStore(below_a_file(folder, "c.sqlite")).save("wikidata", "labels/1", [LABEL], ASKED),
        CacheFileError,
        "cannot be written",
    ),
    "index in an absent folder": (
        lambda folder: build_label_index(folder / "no-such-folder" / "labels.sqlite", [NAME]),
        LabelIndexError,
        "cannot be written",
    ),
    "store in /proc": (
        lambda folder: load([put(folder, "g.tsv", "Q1\tP1\tQ2\n")], "/proc/wd"),
        StoreError,
        "/proc/wd: cannot be written",
    ),
    "store below a file": (
        lambda folder: load([put(folder, "g.tsv", "Q1\tP1\tQ2\n")], below_a_file(folder, "wd")),
        StoreError,
        "cannot be written",
    ),
}


def subgraph(edit: object, **options: Any) -> Call:
    """The toy graph is asked for the subgraph of an edit."""
    return lambda folder: WikidataCache(put(folder, "toy.tsv", TOY)).subgraph(edit, **options)  # type: ignore[arg-type]


def option(**options: Any) -> Call:
    return lambda _: SubgraphOptions(**options)


def wrong_options(folder: Path) -> object:
    return WikidataCache(put(folder, "toy.tsv", TOY)).neighbourhood("Q1", 2)  # type: ignore[arg-type]


def mapping_in_place_of_edits(folder: Path) -> object:
    edit: Any = {"subject": "One", "target_new": "Two"}
    return WikidataCache(put(folder, "toy.tsv", TOY)).subgraphs(edit)


def all_ranks(folder: Path) -> object:
    graph = put(folder, "g.tsv", "Q1\tP1\tQ2\nQ1\tlabel\tOne\nQ2\tlabel\tTwo\nP1\tlabel\tpoints to\n")
    return WikidataCache(graph).neighbourhood("Q2", SubgraphOptions(hops=1, statements="all", direction="both"))


def answers(value: Any) -> Call:
    return lambda _: Leakage(answers=value)


def deny_list(content: bytes | None, name: str = "b.tsv") -> Call:
    def call(folder: Path) -> object:
        file = folder / name
        if content is not None:
            file.write_bytes(content)
        return WikidataCache(put(folder, "toy.tsv", TOY), meta_properties=file)

    return call


GRAPH = "head\trelation\ttail\n"
GRAPHS: dict[str, Row] = {
    "id that the graph lacks": (
        subgraph(Edit("s", "Nowhere", target_new_id="Q777")),
        EntityNotInGraphError,
        "Q777 (Nowhere)",
    ),
    "label that the graph lacks": (subgraph(Edit("s", "Nowhere")), UnknownLabelError, "target_new_id"),
    "label of two entities": (subgraph(Edit("s", "Twin")), AmbiguousLabelError, 'target_new_id: "Q10"'),
    "label of a property": (subgraph(Edit("s", "admires")), UnknownLabelError, "admires"),
    **{
        f"malformed id {field}": (subgraph(replace(EDIT, **{field: value})), BadOptionError, field)
        for field, value in (("target_new_id", "Two"), ("relation_id", "Q2"), ("subject_id", "P1"))
    },
    "mapping in place of an edit": (
        subgraph({"subject": "One", "target_new": "Two"}),
        BadOptionError,
        "type dict without the attributes subject, relation, ",
    ),
    "mapping in place of edits": (mapping_in_place_of_edits, BadOptionError, "type str without"),
    "number in place of options": (
        lambda folder: WikidataCache(put(folder, "toy.tsv", TOY)).subgraph(EDIT, 2),  # type: ignore[arg-type]
        BadOptionError,
        "options=2: expected SubgraphOptions",
    ),
    "number in place of options of a neighbourhood": (wrong_options, BadOptionError, "such as SubgraphOptions(hops=2)"),
    **{
        f"option {options}": (option(**options), BadOptionError, keyword)
        for keyword, options in (
            ("hops=0: expected at least 1", {"hops": 0}),
            ("per_node", {"per_node": -1}),
            ("max_edges", {"max_edges": 0}),
            ("roots", {"roots": ("object",)}),
            ("roots", {"roots": "subject"}),
            ("hops='2': expected a whole number", {"hops": "2"}),
            ("max_edges=1.5: expected a whole number", {"max_edges": 1.5}),
            ("seed=None: expected a whole number", {"seed": None}),
            ("policy='random': expected one of uniform", {"policy": "random"}),
            ("direction='in': expected one of", {"direction": "in"}),
            ("statements='best': expected one of", {"statements": "best"}),
            ("rules='rules.tsv': expected Rules, such as read_rules", {"rules": "rules.tsv"}),
        )
    },
    **{
        f"answers {value!r}": (answers(value), BadOptionError, "answers=")
        for value in ("Q3", ("",), ("Q3", "  "), (3,))
    },
    "leakage that is a text": (option(leakage="Q3"), BadOptionError, "leakage="),
    "all ranks of truthy statements": (all_ranks, TruthyOnlyError, "Q1"),
    "all ranks of the extract": (
        lambda _: WikidataCache(packaged_extract()).subgraph(EDITS[0], SubgraphOptions(statements="all")),
        TruthyOnlyError,
        'statements="truthy"',
    ),
    **{
        f"graph of names {name}": (
            lambda folder, name=name, head=head: open_source(
                str(put(folder, name, f"{head}Paris\tcapital of\tFrance\n"))
            ),
            PrivateGraphError,
            "names instead of Wikidata's ids",
        )
        for name, head in (
            *((name, "") for name in ("facts.csv", "facts.csv.gz", "facts.graphml", "plain.tsv")),
            ("header.tsv", GRAPH),
        )
    },
    "deny list that is not there": (deny_list(None), DenyListError, "b.tsv cannot be read"),
    "deny list that is no UTF-8": (deny_list(b"id\n\xff\xfe"), DenyListError, "UTF-8"),
    "deny list of items": (
        deny_list(b"id\nQ11266439\n"),
        DenyListError,
        "found 'Q11266439'",
    ),
    "property in place of a class": (
        lambda folder: WikidataCache(put(folder, "toy.tsv", TOY), internal_classes=["P910"]),
        DenyListError,
        "found 'P910'; expected ids such as Q4167836",
    ),
}


def edits(name: str, content: str, row: str = "") -> Call:
    """A file of edits is read, or one row of it."""
    return lambda folder: read_edits(f"{put(folder, name, content)}{row}")


ROW = '{"subject": "A", "target_new": "B"'
EDIT_FILES: dict[str, Row] = {
    "second row without a target": (
        edits("a.jsonl", ROW + '}\n{"subject": "A"}'),
        EditRowError,
        "a.jsonl, row 2, field target_new: is missing",
    ),
    "no subject": (edits("a.jsonl", '{"target_new": "B"}'), EditRowError, "row 1, field subject: is missing"),
    "list as a target": (
        edits("a.jsonl", '{"subject": "A", "target_new": ["B"]}'),
        EditRowError,
        "field target_new: found ['B']; expected a text",
    ),
    "misspelt field": (
        edits("a.jsonl", '{"subject": "A", "targetnew": "B"}'),
        EditRowError,
        "unknown; did you mean 'target_new'",
    ),
    "id that is none": (edits("a.jsonl", ROW + ', "target_new_id": "B"}'), EditRowError, "expected an id such as Q42"),
    "item as a relation": (edits("a.jsonl", ROW + ', "relation_id": "Q19"}'), EditRowError, "an id such as P19"),
    "two relations": (
        edits("a.jsonl", ROW + ', "relation": "P19", "relation_id": "P20"}'),
        EditRowError,
        "field relation: found 'P19', but relation_id is 'P20'",
    ),
    "two new objects": (
        edits("a.jsonl", ROW + ', "new_object": "C"}'),
        EditRowError,
        "field new_object: found",
    ),
    "no JSON": (edits("a.jsonl", "{oops"), EditRowError, "row 1: not JSON, column 2"),
    "number": (edits("a.jsonl", "3"), EditRowError, "row 1: found int"),
    "deep list": (edits("a.json", "[" * 100_000), EditRowError, "not JSON"),
    "cell too many": (edits("a.csv", "subject,target_new\nA,B,C\n"), EditRowError, "row 1: found 3 cells; expected 2"),
    "open quotes": (edits("a.csv", 'subject,target_new\nA,"B\n'), EditRowError, "row 1: not a row of a table"),
    "another ending": (edits("a.txt", "A B"), EditRowError, "ends in '.txt'; expected a file of edits in .jsonl"),
    "no rows": (edits("a.jsonl", "\n"), EditRowError, "has no rows"),
    "row 0": (edits("a.jsonl", ROW + "}", ":0"), EditRowError, "row 0: there is no such row; the file has 1"),
    "row beyond the last": (edits("a.jsonl", ROW + "}", ":2"), EditRowError, "row 2: there is no such row"),
}


def loaded(name: str, content: bytes) -> Call:
    """A file is loaded into a store, which is then not made."""

    def call(folder: Path) -> object:
        try:
            return load([put(folder, name, content)], folder / "wd")
        finally:
            assert not (folder / "wd").exists()

    return call


def loaded_twice(folder: Path) -> object:
    path = put(folder, "g.nt", GOOD)
    return load([path, path], folder / "wd")


def empty_folder(folder: Path) -> object:
    (folder / "folder").mkdir()
    return load([folder / "folder"], folder / "wd")


def nested_labels(folder: Path) -> object:
    home = folder / "codex" / "entities" / "en"
    home.mkdir(parents=True)
    put(folder / "codex", "train.txt", "Q1\tP31\tQ2\n")
    put(home, "labels.json", f'{{"Q1": {"[" * 100_000}')
    return load([folder / "codex"], folder / "wd")


def not_written(error: Exception) -> Call:
    """The disk refuses what is written into a store."""

    def call(folder: Path) -> object:
        with store_write_errors(folder):
            raise error

    return call


DAMAGED_PART = [bytearray(bz2.compress(GOOD.replace(b"Q1", b"Q%d" % number))) for number in range(400)]
DAMAGED_PART[200][:4] = b"xxxx"
STORES: dict[str, Row] = {
    "empty file": (loaded("empty.nt", b""), GraphFileError, "is empty"),
    "empty gzip": (loaded("empty.nt.gz", gzip.compress(b"\n", mtime=0)), GraphFileError, "is empty"),
    "cut gzip": (loaded("cut.nt.gz", gzip.compress(GOOD * 9000, mtime=0)[:-20]), GraphFileError, "corrupt or cut-off"),
    "cut bzip2": (loaded("cut.nt.bz2", bz2.compress(GOOD * 9000)[:-20]), GraphFileError, "corrupt or cut-off"),
    "damaged part": (loaded("dump.nt.bz2", b"".join(DAMAGED_PART)), GraphFileError, "corrupt or cut-off"),
    "Turtle": (
        loaded("graph.ttl", b"@prefix wd: <http://a> .\n"),
        GraphFileError,
        "is Turtle; convert it",
    ),
    "zstd": (loaded("dump.nt.zst", b"\x28\xb5\x2f\xfd1234"), GraphFileError, "compressed with zstd; unpack it"),
    "prose": (loaded("prose.txt", b"once upon a time\n"), GraphFileError, "is not a graph: it begins with"),
    "triples of others": (
        loaded("other.nt", b"<http://a> <http://b> <http://c> .\n"),
        GraphFileError,
        "Keep every triple with --keep-all",
    ),
    "no file": (lambda folder: load([folder / "nowhere.nt"], folder / "wd"), GraphFileError, "does not exist"),
    "file twice": (loaded_twice, GraphFileError, "is given twice"),
    "empty folder": (empty_folder, GraphFileError, "contains nothing to load"),
    "nothing": (lambda folder: load([], folder / "wd"), BadOptionError, "Nothing to load"),
    "nested labels": (nested_labels, GraphFileError, "nested too deeply"),
    "read-only disk": (not_written(OSError(errno.EROFS, "Read-only")), StoreError, "make its folder writable"),
    "full disk": (not_written(OSError(errno.ENOSPC, "No space left on device")), StoreError, "free some space"),
    "full disk of the database": (
        not_written(RuntimeError("IO error: No space left on device")),
        StoreError,
        "free some space or give another --store",
    ),
}


def english_cache(folder: Path) -> Path:
    save_facts(folder / "small.sqlite", LABEL)
    return folder / "small.sqlite"


def store_in_english(folder: Path) -> object:
    load([packaged_extract()], folder / "wd")
    return WikidataCache(folder / "wd", languages=language_chain("ko"))


LANGUAGES: dict[str, Row] = {
    "store without the language": (store_in_english, StoreError, "no labels in ko, but in en"),
    "label in no language of the chain": (
        lambda _: WikidataCache(packaged_extract(), languages=language_chain("ko,zh")).subgraph(Edit("s", "Ronndon")),
        UnknownLabelError,
        "'Ronndon' in ko, zh or English",
    ),
    "languages of a cache in one text": (
        lambda _: WikidataCache(packaged_extract(), languages="ko"),
        BadOptionError,
        "language_chain('zh,ko')",
    ),
    "offline miss": (
        lambda folder: WikidataCache(cache=english_cache(folder), languages=language_chain("ko")).labels(["Q1"]),
        CacheMissError,
        "in the language ko for Q1",
    ),
    "unknown code": (lambda _: language_chain("zh,jp"), BadOptionError, "'jp' is not a language"),
    "no code": (lambda _: language_chain("zh,"), BadOptionError, "separated by commas"),
    "codes in one text": (lambda _: check_languages("zh,ko"), BadOptionError, "language_chain('zh,ko')"),
    "no codes": (lambda _: check_languages(()), BadOptionError, "expected codes"),
}


def cache_with(sql: str) -> Call:
    """A file of SQLite was changed, or made, by something else; it stays as it is."""

    def call(folder: Path) -> object:
        path = folder / "c.sqlite"
        connection = sqlite3.connect(path)
        if "user_version" in sql:
            filled(path).close()
        connection.execute(sql)
        connection.commit()
        connection.close()
        before = path.read_bytes()
        try:
            return AnswerStore(path).save("wikidata", "labels/1", [LABEL], ASKED)
        finally:
            assert path.read_bytes() == before

    return call


def pack(name: str, content: bytes | None = None) -> Call:
    """A read-only cache beside one's own."""

    def call(folder: Path) -> object:
        (folder / "folder").mkdir()
        if content is not None:
            put(folder, name, content)
        return WikidataCache(cache=folder / "own.sqlite", packs=[folder / name])

    return call


def written_pack(folder: Path) -> object:
    filled(folder / "c.sqlite").close()
    return AnswerStore(folder / "c.sqlite", read_only=True).save("wikidata", "labels/1", [LABEL], ASKED)


def mode(chosen: Any, *, endpoint: bool, as_of: str | None = None) -> Call:
    return lambda _: effective_mode(chosen, endpoint=endpoint, as_of=as_of)


NOON = "2026-11-20T12:00:00+00:00"
CACHES: dict[str, Row] = {
    "cache of a later version": (cache_with("PRAGMA user_version = 7"), CacheFileError, "is a cache of version 7"),
    "database of something else": (cache_with("CREATE TABLE bookmarks (url)"), CacheFileError, "not a cache"),
    "snapshot as a pack": (
        pack("paper.jsonl.gz", gzip.compress(b"{}\n")),
        CacheFileError,
        "is a snapshot",
    ),
    "text as a pack": (pack("x.sqlite", b"not a database, certainly not one"), CacheFileError, "is not a cache file"),
    "empty pack": (pack("empty.sqlite", b""), CacheFileError, "is empty"),
    "folder as a pack": (pack("folder"), CacheFileError, "cannot be read (Is a directory"),
    "no pack": (pack("nowhere"), CacheFileError, "no such pack"),
    "pack that is written": (written_pack, CacheFileError, "for reading only"),
    "snapshot that is not there": (
        lambda folder: import_snapshot(AnswerStore(folder / "c.sqlite"), folder / "absent.jsonl.gz"),
        SnapshotError,
        "absent.jsonl.gz: can't be read: No such",
    ),
    "online without an endpoint": (mode("online", endpoint=False), BadOptionError, "online"),
    "refresh of an earlier time": (mode("refresh", endpoint=True, as_of=NOON), BadOptionError, "refresh"),
    "unknown mode": (mode("cached", endpoint=True), BadOptionError, "cached"),
    "refresh without an endpoint": (
        lambda folder: WikidataCache(mode="refresh", cache=folder / "c.sqlite"),
        BadOptionError,
        "needs an endpoint, but none is given",
    ),
    "time that is none": (lambda _: WikidataCache(as_of="yesterday"), BadOptionError, "yesterday"),
}
WIKIDATA, LOCAL = "https://query.wikidata.org/sparql", "http://127.0.0.1:9/sparql"


def endpoint(url: str, **options: Any) -> Call:
    return lambda _: EndpointSource(url, **options)


def asked(url: str) -> Call:
    """One request is sent."""
    return lambda _: facts(EndpointSource(url, limiter=hasty())).types(["Q1"])


ENDPOINTS: dict[str, Row] = {
    **{
        f"timeout {seconds!r}": (
            endpoint(LOCAL, timeout=seconds),
            BadOptionError,
            f"timeout={seconds!r}: expected a num",
        )
        for seconds in (0, -1, float("nan"), float("inf"), None, "5")
    },
    **{
        f"Wikidata by {contact!r}": (endpoint(WIKIDATA, contact=contact), MissingContactError, "KG_EDIT_CONTACT")
        for contact in (None, "me", "a@b.org\r\nX-Evil: 1", "Юрий <yuri@example.org>")
    },
    **{
        f"contact {contact!r} that no header can have": (
            endpoint(LOCAL, contact=contact),
            MissingContactError,
            "only in Latin letters",
        )
        for contact in ("Юрий <yuri@example.org>", "a@b.org\n")
    },
    **{
        f"{host} without a contact": (
            endpoint(f"https://{host}/sparql"),
            MissingContactError,
            f"Requests to {host} must name a contact",
        )
        for host in ("qlever-wikidata.wmcloud.org", "blazegraph.toolforge.org")
    },
    "cache of Wikidata without a contact": (
        lambda folder: WikidataCache(WIKIDATA, cache=folder / "new" / "c.sqlite").labels(["Q65"]),
        MissingContactError,
        "contact",
    ),
    "refresh from Wikidata without a contact": (
        lambda folder: WikidataCache(WIKIDATA, cache=folder / "new" / "c.sqlite", mode="refresh"),
        MissingContactError,
        "contact",
    ),
    "unknown host": (asked("http://no-such-host.invalid/sparql"), EndpointError, "Check the URL and the network"),
    "nobody there": (asked(LOCAL), EndpointError, "Connection refused"),
    "space in an address": (asked("http://127.0.0.1:9/a b"), EndpointError, "not a valid URL"),
    "letter in an address": (asked("http://127.0.0.1:9/ü"), EndpointError, "not a valid URL"),
    "bracket in an address": (asked("http://[::1/sparql"), EndpointError, "not a valid URL"),
}


def command(*arguments: str) -> Call:
    """`wikidata-cache` with arguments, in which {} is the folder, with three edits in edits.jsonl."""

    def call(folder: Path) -> object:
        write_edits(folder / "edits.jsonl", *EDITS)
        if any("small.sqlite" in word for word in arguments):
            save_facts(folder / "small.sqlite", LABEL)
        return run_cli(*(word.format(folder) for word in arguments))

    return call


EXTRACT = str(packaged_extract())
SMALL = ("--cache", "{}/small.sqlite")
COMMANDS: dict[str, Row] = {
    **{
        f"fetch from a local graph {option[0]}": (
            command("fetch", "{}/edits.jsonl", "--endpoint", EXTRACT, "--out", "{}/s.jsonl", *option),
            BadOptionError,
            f"leave out {option[0]}",
        )
        for option in (("--cache", "c.sqlite"), ("--offline",), ("--mode", "refresh"), ("--pack", "p.sqlite"))
    },
    **{
        f"{name} from a local graph {option[0]}": (
            command(name, "Q1345", "-g", "extract", *option),
            BadOptionError,
            f"a local graph and needs no cache, so leave out {option[0]}.",
        )
        for name in ("show", "labels", "find")
        for option in (("--offline",), ("--cache", "c.sqlite"))
    },
    "show from a local graph --mode": (
        command("show", "Q1345", "-g", "extract", "--mode", "refresh"),
        BadOptionError,
        "leave out --mode.",
    ),
    "show from a local graph --pack": (
        command("show", "Q1345", "-g", "extract", "--pack", "p.sqlite"),
        BadOptionError,
        "leave out --pack.",
    ),
    "offline and refresh": (
        command("fetch", "{}/edits.jsonl", "--offline", "--mode", "refresh"),
        BadOptionError,
        "--offline and --mode refresh disagree",
    ),
    "refresh of an earlier time": (
        command("fetch", "{}/edits.jsonl", "--as-of", "2026-01-01", "--mode", "refresh"),
        BadOptionError,
        "as_of='2026-01-01'",
    ),
    "options of a file with an id": (
        command("fetch", "--kind", "label", "Q65", "--out", "{}/s.jsonl", "--per-node", "3"),
        BadOptionError,
        "--kind fetches facts about ids",
    ),
    "bytes that are no UTF-8": (
        command("fetch", "--kind", "named", "caf\udce9", "--graph", "extract"),
        BadOptionError,
        "is not UTF-8",
    ),
    "no folder for the output": (
        command("fetch", "{}/edits.jsonl", "--out", "{}/none/s.jsonl"),
        BadOptionError,
        "Make it",
    ),
    "unknown root": (command("fetch", "{}/edits.jsonl", "--root", "everything"), BadOptionError, "a sequence from"),
    **{
        f"link of a file {option[0]}": (
            command("link", "{}/edits.jsonl", "--out", "{}/linked.jsonl", *option),
            BadOptionError,
            f"{option[0]} is for a single text",
        )
        for option in (
            ("--relation", "P19"),
            ("--role", "subject"),
            ("--kind", "property"),
            ("--label", "x"),
            ("--json",),
        )
    },
    **{
        f"no cache to {' '.join(words)}": (
            command(*words, "--cache", "{}/nowhere/paper.sqlite"),
            CacheFileError,
            "there is no such file. Check --cache",
        )
        for words in (
            ("show", "Q1345"),
            ("labels", "Q1345"),
            ("find", "London"),
            ("link", "London"),
            ("labels", "Q1345", "--offline"),
        )
    },
    **{
        f"empty time to {words[0]}": (command(*words, *SMALL, "--as-of", ""), error, "'' is not a time")
        for words, error in (
            (("show", "Q2"), BadOptionError),
            (("fetch", "--kind", "label", "Q2"), BadOptionError),
            (("export", "{}/out.jsonl.gz"), BadOptionError),
        )
    },
    "show of three edits": (command("show", "{}/edits.jsonl"), BadOptionError, "has 3 edits; choose one row"),
    "show of row 4": (command("show", "{}/edits.jsonl:4"), EditRowError, "no such row"),
    "show of row x": (command("show", "{}/edits.jsonl:x"), BadOptionError, "expected a row number"),
    "show of no row": (command("show", "{}/edits.jsonl:"), BadOptionError, "expected a row number"),
    "show from an unknown root": (
        command("show", "{}/edits.jsonl:2", "--root", "everything"),
        BadOptionError,
        "expected a sequence from",
    ),
    "show in no file": (command("show", "Q1345", "--open"), BadOptionError, "give --html"),
    "show of a name": (command("show", "Philadelphia"), BadOptionError, "not a Wikidata id"),
    "show of few edges": (command("show", "Q1345", "--max-edges", "3"), BadOptionError, "--max-edges is for edits"),
    "show from a root": (command("show", "Q1345", "--root", "subject"), BadOptionError, "--root is for edits"),
    "show in no folder": (command("show", "Q1345", "--html", "{}/none/a.html"), BadOptionError, "Make it"),
    "drawing in no folder": (command("show", "Q1345", "--draw", "{}/none/a.svg"), BadOptionError, "Make it"),
    "drawing in a PDF": (command("show", "Q1345", "--draw", "a.pdf"), BadOptionError, "ending in .svg"),
    "page of a property": (command("show", "P31", "--html", "a.html"), BadOptionError, "is a property"),
    "show of an unknown property": (command("show", "P3111111"), WikidataCacheError, "not in the graph"),
    "unknown language": (command("labels", "Q84", "--language", "ko,jp"), BadOptionError, "'jp' is not a language"),
    "unknown language of a store": (
        command("load", EXTRACT, "--store", "{}/wd", "--language", "korean"),
        BadOptionError,
        "such as zh, ko",
    ),
    "language of statements": (
        command("fetch", "--kind", "out", "Q1", "--language", "ko", "--graph", EXTRACT),
        BadOptionError,
        "--kind label, description, named",
    ),
    "show of an unknown item": (command("show", "Q3111111"), WikidataCacheError, "not in the graph"),
}


@refusals(
    {
        f"{group}: {mistake}": row
        for group, rows in {
            "source": SOURCES,
            "file": FILES,
            "graph": GRAPHS,
            "edits": EDIT_FILES,
            "language": LANGUAGES,
            "store": STORES,
            "cache": CACHES,
            "endpoint": ENDPOINTS,
            "command": COMMANDS,
        }.items()
        for mistake, row in rows.items()
    }
)
def test_mistake_is_refused(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
    assert not (tmp_path / "new").exists(), "nothing was asked, so there is nothing to keep"
