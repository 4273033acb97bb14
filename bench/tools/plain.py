"""The plain ways: one id a request, and at their plainest its statements, its label and its types one by one."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from wikidata_cache import Source
from wikidata_cache.ids import DIRECT, ENTITY, local_id
from wikidata_cache.sources.queries import write_marked_select
from wikidata_cache.sources.source import Answer, Binding, Fact, Provenance, Template


class OneByOne:
    """A `Source` that asks another one about each id alone; `asked` counts by kind.

    With `joined`, one request brings an item's statements together with labels and types of their values.
    """

    def __init__(self, inner: Source, *, joined: bool = False) -> None:
        self._inner = inner
        self._joined = joined
        self.asked: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """The other source's name."""
        return self._inner.name

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """The other source's."""
        return self._inner.provenance(ids)

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """An answer for each id."""
        bare = template.kind == "out" and not self._joined
        alone = replace(template, query=_out_query, read=_read_out, about=lambda row: None) if bare else template
        for entity in ids:
            self.asked[template.kind] += 1
            yield from self._inner.ask(alone, [entity])

    def select(self, query: str) -> Sequence[Binding]:
        """The other source's answer."""
        return self._inner.select(query)


def _out_query(ids: Sequence[str]) -> str:
    return write_marked_select(
        "?p ?o",
        f"wd:{ids[0]} ?p ?o . FILTER(isIRI(?o)) "
        f'FILTER(STRSTARTS(STR(?p), "{DIRECT}P")) FILTER(STRSTARTS(STR(?o), "{ENTITY}Q"))',
    )


def _read_out(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    return [Fact("out", ids[0], sorted([local_id(row["p"]), local_id(row["o"])] for row in rows))]
