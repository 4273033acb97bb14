"""What can go wrong, each with what was found, what was expected and the way out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

EndpointTrouble = Literal["throttled", "outage", "refused", "timeout", "unavailable", "rejected", "bad answer"]


class WikidataCacheError(Exception):
    """Base of every error this package raises on purpose."""


class BadOptionError(WikidataCacheError, ValueError):
    """An argument is outside its range, or not an id where an id is needed."""


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
        self.line = line


class EntityNotInGraphError(WikidataCacheError, LookupError):
    """The graph says nothing at all about an entity: no statement, no mention, no label."""

    def __init__(self, entity: str, label: str, source: str) -> None:
        super().__init__(
            f"{entity} ({label}) is not in the graph {source}: no statement, no mention, no label. "
            f"Give a graph that holds it, or correct the id of the edit's target."
        )
        self.entity = entity


class UnknownLabelError(WikidataCacheError, LookupError):
    """No item of the graph, Wikimedia's own pages aside, carries a label that had to be resolved."""

    def __init__(self, label: str, source: str) -> None:
        super().__init__(
            f"No entity is labelled {label!r} in the graph {source} (exact match, Wikimedia's own pages aside). "
            f"Write the entity's id in the row (target_new_id), or give a graph that holds it."
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


class TruncatedAnswerError(WikidataCacheError):
    """An answer came without its end: a source gives out no more than so many rows."""

    def __init__(self, source: str, rows: int) -> None:
        super().__init__(
            f"{source}: the answer was cut off after {rows} rows. Ask for fewer ids at a time, raise the "
            f"source's limit on rows, or use another source."
        )
        self.rows = rows


class EndpointError(WikidataCacheError):
    """A SPARQL endpoint failed; `trouble` classifies how, `status` is the HTTP status where there was one."""

    def __init__(
        self,
        url: str,
        trouble: EndpointTrouble,
        found: str,
        way_out: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{url}: {found} ({trouble}). {way_out}")
        self.url = url
        self.trouble = trouble
        self.status = status
        self.retry_after = retry_after
