"""The errors of this package; each message names what was found, what was expected, and what to do about it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

_OTHER_GRAPH = "--graph URL, or --graph wd/ made by `wikidata-cache load`"  # as both command lines call it

EndpointTrouble = Literal[
    "throttled",  # HTTP 429: wait
    "outage",  # the 429 that limits everybody
    "refused",  # HTTP 403: banned, or no acceptable User-Agent
    "timeout",  # the query took too long, for the server or for us
    "truncated",  # a complete message without its last rows
    "cut off",  # a message without its end
    "too long",  # the query, for the server
    "too large",  # the answer, for us
    "unavailable",  # 5xx, no connection
    "rejected",  # other 4xx
    "bad answer",  # no SPARQL JSON
]


class WikidataCacheError(Exception):
    """Base of every error this package raises on purpose."""


class BadOptionError(WikidataCacheError, ValueError):
    """An argument is outside its range, or not an id where an id is needed."""


class MissingExtraError(WikidataCacheError, ImportError):
    """An optional library that an export needs is not installed."""

    def __init__(self, library: str, wanted_by: str, requirement: str) -> None:
        super().__init__(f"{wanted_by} needs {library}, which is not installed. Run: pip install '{requirement}'")
        self.library = library


class SourceStringError(WikidataCacheError, ValueError):
    """A source string names nothing that can be opened."""


class OfflineError(WikidataCacheError):
    """A SPARQL endpoint was asked for while KG_OFFLINE forbids it."""


class MissingContactError(WikidataCacheError):
    """A Wikimedia endpoint was asked for without saying who asks."""


class GraphFileError(WikidataCacheError):
    """A graph file is missing, empty, corrupt or malformed; names the file and, where known, the line."""

    def __init__(self, path: Path, problem: str, *, line: int | None = None) -> None:
        where = f"{path}, line {line}" if line is not None else f"{path}"
        super().__init__(f"{where}: {problem}")
        self.path = path
        self.problem = problem
        self.line = line


class EntityNotInGraphError(WikidataCacheError, LookupError):
    """The graph says nothing at all about an entity: no statement, no mention, no label."""

    def __init__(self, entity: str, label: str, source: str) -> None:
        super().__init__(
            f"{entity} ({label}) is not in the graph {source}: no statement, no mention, no label. "
            f"Give a graph that holds it ({_OTHER_GRAPH}), get it with `wikidata-cache fetch`, or correct the id of "
            f"the edit's target."
        )
        self.entity = entity


class UnknownLabelError(WikidataCacheError, LookupError):
    """No item of the graph, Wikimedia's own pages aside, carries a label that had to be resolved."""

    def __init__(self, label: str, source: str) -> None:
        super().__init__(
            f"No entity is labelled {label!r} in the graph {source} (exact match, Wikimedia's own pages aside). "
            f"Write the entity's id in the row (target_new_id), give a graph that holds it ({_OTHER_GRAPH}), or get it "
            f"with `wikidata-cache fetch`."
        )
        self.label = label


class AmbiguousLabelError(WikidataCacheError, LookupError):
    """A label that had to be resolved names several entities; `candidates` begins with the most stated one."""

    def __init__(self, label: str, candidates: Sequence[str], described: Sequence[str]) -> None:
        super().__init__(
            f"{label!r} names {len(candidates)} entities: {'; '.join(described)}. "
            f'Write the one you mean in the row, for example target_new_id: "{candidates[0]}".'
        )
        self.label = label
        self.candidates = tuple(candidates)


class DenyListError(WikidataCacheError, ValueError):
    """A deny-list cannot be read, or holds what is no id of its kind."""


class TruthyOnlyError(WikidataCacheError, LookupError):
    """Statements of every rank were asked for, and the graph holds truthy ones only."""

    def __init__(self, entity: str, source: str) -> None:
        super().__init__(
            f"{entity}: the graph {source} holds truthy statements only (wdt:), no ranks and no times. Load a full "
            f'dump (latest-all.nt.gz, with p:, ps: and pq:), use a Wikidata endpoint, or ask for statements="truthy".'
        )
        self.entity = entity


class TruncatedAnswerError(WikidataCacheError):
    """An answer lacks its end mark: the source has a limit on rows; `rows` is how many came."""

    def __init__(self, source: str, rows: int) -> None:
        super().__init__(
            f"{source}: the answer was cut off after {rows} rows. Ask for fewer ids at a time, raise the "
            f"source's limit on rows, or use another source."
        )
        self.rows = rows


class WrongAnswerError(WikidataCacheError):
    """An answer does not fit the question: to other ids, or with values that the question cannot have."""

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"{source}: {problem}. Check what stands between you and the source, or use another one.")
        self.problem = problem


class LabelIndexError(WikidataCacheError):
    """A label index cannot be read or written; `path` is the file."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}. `wikidata-cache load` makes a label index beside its store.")
        self.path = path


class StoreError(WikidataCacheError):
    """A store on disk is missing, incomplete, damaged, of another version, or stands where one is to be written."""

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"{folder}: {problem}")
        self.folder = folder


class ServeError(WikidataCacheError):
    """The SPARQL server over a store cannot be started."""


class EndpointError(WikidataCacheError):
    """A SPARQL endpoint failed: `trouble` is the kind of failure, `suggestion` what to do about it.

    `status` is the HTTP status where there was one, `retry_after` the seconds that the server asks to wait.
    """

    def __init__(
        self,
        url: str,
        trouble: EndpointTrouble,
        found: str,
        suggestion: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{url}: {found} ({trouble}). {suggestion}")
        self.url = url
        self.trouble = trouble
        self.found = found
        self.suggestion = suggestion
        self.status = status
        self.retry_after = retry_after


class CacheFileError(WikidataCacheError):
    """A cache file cannot be read or written: another format, damaged, read-only, or no space left."""

    def __init__(self, path: Path, problem: str, suggestion: str) -> None:
        super().__init__(f"{path}: {problem}. {suggestion}")
        self.path = path


class UnfitFactError(CacheFileError):
    """An answer that a cache does not take: a value, an id or a time that no such fact can have."""

    def __init__(self, path: Path, url: str, problem: str) -> None:
        suggestion = "Check the endpoint, and this machine's clock."
        super().__init__(path, f"nothing was kept of an answer of {url}: {problem}", suggestion)


class CacheMissError(WikidataCacheError, LookupError):
    """Offline, and the cache lacks what was asked for; `kind` and `ids` say what, `command` fetches it."""

    def __init__(self, kind: str, ids: Sequence[str], searched: Sequence[Path], command: str) -> None:
        shown = ", ".join(ids[:10]) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")
        places = ", ".join(str(path) if path.exists() else f"{path} (no such file)" for path in searched)
        super().__init__(
            f"Not in the cache, kind {kind}, {len(ids)} missing: {shown}. Searched offline: {places}. "
            f"Fetch with `{command}`, or do what you just did without offline mode."
        )
        self.kind = kind
        self.ids = tuple(ids)
        self.searched = tuple(searched)
        self.command = command


class SnapshotError(WikidataCacheError):
    """A snapshot file is malformed, cut off, corrupt, or contradicts the cache; the cache is left as it was."""

    def __init__(self, path: Path, problem: str, *, line: int | None = None) -> None:
        where = f"{path}, line {line}" if line is not None else f"{path}"
        super().__init__(f"{where}: {problem}. The cache is unchanged.")
        self.path = path
        self.line = line


class UserQueryError(WikidataCacheError, ValueError):
    """A user's query is not a single SELECT query."""


class ServiceForbiddenError(WikidataCacheError, ValueError):
    """A query uses SERVICE (SPARQL federation) where no connection may be opened."""


class EditRowError(WikidataCacheError, ValueError):
    """A file of edits can't be read, or a row of it is no edit, or one of which the graph knows nothing.

    Names the file, the row (else the `place` in the text, such as "line 3") and the field.
    """

    def __init__(
        self,
        path: Path,
        problem: str,
        *,
        row: int | None = None,
        field: str | None = None,
        place: str | None = None,
    ) -> None:
        places = (str(path), place if row is None else f"row {row}", field and f"field {field}")
        super().__init__(f"{', '.join(part for part in places if part)}: {problem}")
        self.path = path
        self.problem = problem
        self.place = place
        self.problem = problem
        self.row = row
        self.field = field
