"""The errors of this package. Each message has what was found, what was expected, and what to do about it."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Literal

from kg_common.errors import BadOptionError, EditRowError, EntityLookupError
from kg_common.errors import SharedError as WikidataCacheError  # base class of every error of this package

# These three come from `kg_common.errors`; `__all__` marks them as re-exported. All other errors are defined below.
__all__ = ["BadOptionError", "EditRowError", "WikidataCacheError"]

_OTHER_GRAPH = "--graph URL, or --graph wd/ made by `wikidata-cache load`"  # an option of both command lines

EndpointTrouble = Literal[
    "throttled",  # HTTP 429 for us: wait
    "outage",  # HTTP 429 that limits all clients
    "refused",  # HTTP 403: banned, or no acceptable User-Agent
    "timeout",  # the query exceeded the time limit of the server or of this client
    "truncated",  # the message is complete, but rows are missing at its end
    "cut off",  # the message stops before its end
    "too long",  # the server refuses a query of this length
    "too large",  # the answer exceeds the size limit of this client
    "unavailable",  # HTTP 5xx, or no connection
    "rejected",  # any other HTTP status, a redirect to another host, an invalid URL, or what an Action API can't answer
    "bad answer",  # the answer is not SPARQL JSON (or JSON of the Action API), or does not fit its query
]


class MissingExtraError(WikidataCacheError, ImportError):
    """An optional library that an export needs is not installed."""

    def __init__(self, library: str, wanted_by: str, requirement: str) -> None:
        super().__init__(f"{wanted_by} needs {library}, which is not installed. Run: pip install '{requirement}'")


class SourceStringError(WikidataCacheError, ValueError):
    """A source string does not name anything that can be opened."""


class PrivateGraphError(SourceStringError):
    """A file of statements between names was given, which only kg-edit reads."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is a private graph: it has names instead of Wikidata's ids, so an edit needs no `link` and no "
            f"`fetch`. Give it to kg-edit: kg-edit edit EDITS --graph {quote(str(path))} --out out/"
        )


class OfflineError(WikidataCacheError):
    """A SPARQL endpoint was to be opened, but KG_OFFLINE forbids the network."""


class MissingContactError(WikidataCacheError):
    """A Wikimedia endpoint was to be opened without a contact address, which Wikimedia requires."""


class GraphFileError(WikidataCacheError):
    """A graph file is missing, empty, corrupt or malformed. The message names the file and, where known, the line."""

    def __init__(self, path: Path, problem: str, *, line: int | None = None) -> None:
        where = str(path)
        if line is not None:
            where += f", line {line}"
        super().__init__(f"{where}: {problem}")
        self.path = path
        self.problem = problem
        self.line = line


class EntityNotInGraphError(EntityLookupError):
    """The graph does not contain an entity: it has no statement of it, no statement with it as value, and no label."""

    def __init__(self, entity: str, label: str, source: str) -> None:
        articles = ""
        if "query.wikidata.org" in source:  # It lacks scholarly articles. Its empty answer may be cached, so: refresh.
            articles = (
                "Scholarly articles are in a second service: `wikidata-cache fetch EDITS --endpoint "
                "https://query.wikidata.org/sparql --endpoint https://query-scholarly.wikidata.org/sparql "
                "--mode refresh`. "
            )
        super().__init__(
            f"{entity} ({label}) is not in the graph {source}: no statement, no mention, no label. {articles}"
            f"Give a graph that contains it ({_OTHER_GRAPH}), get it with `wikidata-cache fetch`, or correct the id of "
            f"the edit's target."
        )
        self.entity = entity


class UnknownLabelError(EntityLookupError):
    """No item has the label that had to be resolved to an id. Wikimedia-internal items do not count."""

    def __init__(self, label: str, source: str, languages: Sequence[str] = ()) -> None:
        spoken = ""
        if languages:
            spoken = f" in {', '.join(languages)} or English"
        super().__init__(
            f"No entity is labelled {label!r}{spoken} in the graph {source} (exact match; Wikimedia's own pages do not "
            f"count). "
            f"Write the entity's id in the row (target_new_id), give a graph that contains it ({_OTHER_GRAPH}), or "
            f"get it with `wikidata-cache fetch`."
        )
        self.label = label


class AmbiguousLabelError(EntityLookupError):
    """Several items have the label that had to be resolved to an id.

    `candidates` are their ids, `described` the same with their types, the one that is probably meant first.
    """

    def __init__(self, label: str, candidates: Sequence[str], described: Sequence[str]) -> None:
        super().__init__(
            f"{label!r} names {len(candidates)} entities: {'; '.join(described)}. "
            f'Write the one you mean in the row, for example target_new_id: "{candidates[0]}".'
        )
        self.label = label
        self.candidates = tuple(candidates)
        self.described = tuple(described)


class DenyListError(WikidataCacheError, ValueError):
    """A deny-list cannot be read, or contains something that is not an id of the expected kind (item or property)."""


class TruthyOnlyError(WikidataCacheError, LookupError):
    """Statements of every rank were requested, but the graph has truthy statements only."""

    def __init__(self, entity: str, source: str) -> None:
        super().__init__(
            f"{entity}: the graph {source} has truthy statements only (wdt:), no ranks and no times. Load a full "
            f'dump (latest-all.nt.gz, with p:, ps: and pq:), use a Wikidata endpoint, or ask for statements="truthy".'
        )


class TruncatedAnswerError(WikidataCacheError):
    """An answer lacks the row that marks its end, so the source has a limit on rows; `rows` is the number received."""

    def __init__(self, source: str, rows: int) -> None:
        super().__init__(
            f"{source}: the answer was cut off after {rows} rows. Ask for fewer ids at a time, raise the "
            f"source's limit on rows, or use another source."
        )
        self.rows = rows


class WrongAnswerError(WikidataCacheError):
    """An answer does not fit its query: it is about other ids, or has values that this query cannot return."""

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"{source}: {problem}. Check the proxies between you and the source, or use another one.")
        self.problem = problem


class LabelIndexError(WikidataCacheError):
    """A label index cannot be read or written; `path` is the file, `problem` the reason."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}. `wikidata-cache load` makes a label index with its store.")
        self.path = path
        self.problem = problem


class StoreError(WikidataCacheError):
    """A store on disk is missing, incomplete, damaged or of another version, or its place is already taken."""

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"{folder}: {problem}")
        self.folder = folder


class EndpointError(WikidataCacheError):
    """A SPARQL endpoint failed: `trouble` is the kind of failure, `suggestion` what to do about it.

    `status` is the HTTP status, or None. `retry_after` is the number of seconds that the server asks to wait, or None.
    """

    def __init__(
        self,
        url: str,
        trouble: EndpointTrouble,
        problem: str,
        suggestion: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{url}: {problem} ({trouble}). {suggestion}")
        self.url = url
        self.trouble = trouble
        self.problem = problem
        self.suggestion = suggestion
        self.status = status
        self.retry_after = retry_after


class CacheFileError(WikidataCacheError):
    """A cache file cannot be read or written: another format, damaged, read-only, or no space left."""

    def __init__(self, path: Path, problem: str, suggestion: str) -> None:
        super().__init__(f"{path}: {problem}. {suggestion}")


class CacheMissError(WikidataCacheError, LookupError):
    """The cache is offline and lacks the requested facts: those of `kind` for `ids`. `command` fetches them.

    `languages` are those of facts about words, if they are others than the default ones. `needed_by` is the row of a
    file that needs them first, such as "edits.jsonl, row 3"; empty if no file was read.
    `as_of` is the time of which the cache was read, if one was given.
    """

    def __init__(
        self,
        kind: str,
        ids: Sequence[str],
        searched: Sequence[Path],
        command: str,
        needed_by: str = "",
        as_of: str | None = None,
        languages: Sequence[str] = (),
    ) -> None:
        start = "Not"
        if needed_by:
            start = f"{needed_by}: not"
        shown = ", ".join(ids[:10])
        if len(ids) > 10:
            shown += f" and {len(ids) - 10} more"
        spoken = ""
        if languages:
            spoken = f"in the language {', '.join(languages)} "
        files = []
        for path in searched:
            missing = "" if path.exists() else " (no such file)"
            files.append(f"{path}{missing}")
        too_early = ""
        if as_of:
            too_early = f"They were not fetched before {as_of}: give a later time, or leave it out. "
        super().__init__(
            f"{start} in the cache: the facts of the kind {kind!r} {spoken}for {shown}. "
            f"Searched offline: {', '.join(files)}. {too_early}"
            f"Fetch them with `{command}`, or run the same again without offline mode."
        )
        self.kind = kind
        self.ids = tuple(ids)
        self.searched = tuple(searched)
        self.command = command
        self.needed_by = needed_by
        self.as_of = as_of
        self.languages = tuple(languages)

    def for_row(self, needed_by: str) -> "CacheMissError":
        """Return the same error with the row that needs the facts first."""
        return CacheMissError(
            self.kind, self.ids, self.searched, self.command, needed_by, as_of=self.as_of, languages=self.languages
        )

    def with_command(self, command: str) -> "CacheMissError":
        """Return the same error with another command that fetches the facts."""
        return CacheMissError(
            self.kind, self.ids, self.searched, command, self.needed_by, as_of=self.as_of, languages=self.languages
        )


class SnapshotError(WikidataCacheError):
    """A snapshot file is malformed, cut off, corrupt, or contradicts the cache. The cache is left unchanged."""

    def __init__(self, path: Path, problem: str, *, line: int | None = None) -> None:
        where = str(path)
        if line is not None:
            where += f", line {line}"
        super().__init__(f"{where}: {problem}. The cache is unchanged.")


class UserQueryError(WikidataCacheError, ValueError):
    """A user's query is not a single SELECT query."""


class ServiceForbiddenError(WikidataCacheError, ValueError):
    """A query contains SERVICE (SPARQL federation) where no network connection is allowed."""
