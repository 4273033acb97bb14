"""What to type to get what an offline cache lacks."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wikidata_cache.answers.modes import offline_forced
from wikidata_cache.endpoints.rules import wants_contact

WIKIDATA = "https://query.wikidata.org/sparql"
_CONTACT = "YOU@EXAMPLE.ORG"


@dataclass(frozen=True)
class Cure:
    """Commands that fetch into `cache`, under the name `graph`, from `urls` (Wikidata where none is known)."""

    cache: Path
    graph: str
    urls: Sequence[str]

    def command(self, *what: str) -> str:
        """The `fetch` command of these words, complete with endpoint, cache and whatever else it takes."""
        words = ["wikidata-cache", "fetch", *what]
        for url in self._endpoints:
            words += ["--endpoint", url]
        words += ["--cache", str(self.cache)]
        if self._contact:
            words += ["--contact", _CONTACT]
        if self.graph != "wikidata":
            words += ["--graph-name", self.graph]
        return shlex.join((["env", "-u", "KG_OFFLINE"] if offline_forced() else []) + words)

    def for_query(self) -> str:
        """The same for a query of the user's own, which only Python asks."""
        urls = self._endpoints
        options = [repr(urls[0] if len(urls) == 1 else urls), f"cache={str(self.cache)!r}"]
        options += [f"contact={_CONTACT!r}"] if self._contact else []
        options += [f"graph_name={self.graph!r}"] if self.graph != "wikidata" else []
        return f"WikidataCache({', '.join(options)}).query(...)"

    @property
    def _endpoints(self) -> list[str]:
        return [url for url in self.urls if url.startswith(("http://", "https://"))] or [WIKIDATA]

    @property
    def _contact(self) -> bool:
        return any(map(wants_contact, self._endpoints))
