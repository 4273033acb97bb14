"""`WikidataCache`, the main class: it builds subgraphs of edits, and looks up labels and ids, in any source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Unpack

import networkx as nx

from kg_common.ids import is_item
from wikidata_cache import deny_lists
from wikidata_cache.errors import AmbiguousLabelError, WikidataCacheError
from wikidata_cache.extract import packaged_extract, packaged_labels
from wikidata_cache.ids import check_ids
from wikidata_cache.languages import DEFAULT_LANGUAGES, check_languages, language_chain
from wikidata_cache.offline import offline_forced
from wikidata_cache.source_spec import SourceSpec, open_source
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.source import Binding, Source
from wikidata_cache.sources.user_queries import check_select, forbid_service, order_variables
from wikidata_cache.subgraphs.build import build_edit_subgraphs, build_neighbourhood
from wikidata_cache.subgraphs.edit_ends import EditLike, check_edit
from wikidata_cache.subgraphs.facts import Facts, look_up_or_skip
from wikidata_cache.subgraphs.options import DEFAULTS, OPTION_NAMES, Leakage, SubgraphOptions, check_options
from wikidata_cache.subgraphs.subgraph import Subgraph
from wikidata_cache.subgraphs.translate import translate

if TYPE_CHECKING:
    from wikidata_cache.linking.linker import Linker
    from wikidata_cache.remote import SourceOptions

_ITEM_DEFAULTS = SubgraphOptions(hops=1)


class WikidataCache:
    """Subgraphs, labels and ids from a source: a graph file, a folder, a store on disk or an endpoint.

    The object has all answers in memory, so that nothing is read twice.

    Args:
        source: a `Source`, or anything that `open_source` accepts; without one, the cache file is read offline.
        meta_properties: housekeeping properties, instead of the packaged deny-list: ids, or the path of a TSV file
            (id, label) such as `data/meta_properties.tsv`; () switches the list off.
        internal_classes: likewise the internal classes of Wikimedia (`deny_lists.py`).
        languages: the languages of labels, descriptions and names, the preferred one first, such as
            `language_chain("zh,ko")`. The subgraphs are the same in every language, and so are their hashes.
        options: `contact`, `cache`, `mode` and the other options of `open_source`.

    Raises:
        DenyListError: a deny-list cannot be read. The errors of `open_source` are raised as well.
    """

    supports = OPTION_NAMES
    """The options of `subgraph` that have an effect: here all. Other classes with a `subgraph` may have fewer."""

    def __init__(
        self,
        source: SourceSpec | Source | None = None,
        *,
        meta_properties: deny_lists.DenyList | None = None,
        internal_classes: deny_lists.DenyList | None = None,
        languages: Sequence[str] = DEFAULT_LANGUAGES,
        **options: Unpack[SourceOptions],
    ) -> None:
        languages = check_languages(languages)
        self.source: Source
        if isinstance(source, Source):
            self.source = source
        else:
            self.source = open_source(source, languages=languages, **options)
        self._meta_properties = meta_properties
        self._internal_classes = internal_classes
        self.facts = Facts(
            self.source,
            meta=deny_lists.read_meta_properties(meta_properties),
            internal=deny_lists.read_internal_classes(internal_classes),
            languages=languages,
        )

    @property
    def about(self) -> str:
        """The source in words: its name, and the size of a local graph."""
        details = []
        if _is_packaged_extract(self.source):
            details.append("a packaged sample of Wikidata")
        if isinstance(self.source, OxigraphSource) and self.source.size is not None:
            details.append(f"{self.source.size:,} triples")
        if not details:
            return self.source.name
        return f"{self.source.name} ({', '.join(details)})"

    def in_language(self, codes: str) -> WikidataCache:
        """Return this cache with labels in other languages, such as "zh,ko", and then in English.

        Raises:
            BadOptionError: a code is not one of Wikidata's.
            StoreError: the source is a store that was loaded without one of the languages.
        """
        languages = language_chain(codes)
        source: Source | SourceSpec = self.source
        if isinstance(source, OxigraphSource):
            source.check_languages(languages)
            if _is_packaged_extract(source):
                source = packaged_extract()  # to be opened with its labels in other languages
        return WikidataCache(
            source,
            meta_properties=self._meta_properties,
            internal_classes=self._internal_classes,
            languages=languages,
        )

    def labels(self, ids: Iterable[str]) -> dict[str, str]:
        """Return {id: label} in the first of the languages that has one. Ids without a label are absent.

        By default, that is English, else mul, en-gb, en-ca, en-us, simple.
        """
        return self.facts.labels(ids)

    def find(self, label: str) -> tuple[str, ...]:
        """Return the ids of all items and properties with exactly this label in one of the languages, sorted."""
        return self.facts.named([label])[label]

    def describe(self, graph: nx.MultiDiGraph) -> None:
        """Add the attribute `description` in place to every node of a subgraph whose item has a description.

        One request covers 200 nodes. `Subgraph.to_html` shows the descriptions. The content hash and everything else
        in the graph stay the same. Offline, nodes whose description is not in the cache get none.
        """
        for node, text in look_up_or_skip(self.facts.descriptions, filter(is_item, graph)).items():
            graph.nodes[node]["description"] = text

    @cached_property
    def linker(self) -> Linker:
        """The `Linker` over this source, for example `cache.linker.link("Los Angeles", relation="P551")`."""
        from wikidata_cache.linking.linker import open_linker  # a sixth of the import time of the package

        return open_linker(self.facts)

    def query(self, sparql: str) -> list[Binding]:
        """Run your own SELECT query and return its rows. The answer of an endpoint is cached.

        A row has its variables in the order in which the query names them, whether it is read from a cache or not.

        Raises:
            UserQueryError: the text is not a SELECT query.
            ServiceForbiddenError: the query contains SERVICE, and the graph is local or the cache is offline.
            CacheMissError: the cache is offline and lacks the answer. The errors of the source are raised as well.
        """
        check_select(sparql)
        if offline_forced():
            forbid_service(sparql, "KG_OFFLINE is set")
        return order_variables(sparql, self.source.select(sparql))

    def subgraph(self, edit: EditLike, options: SubgraphOptions = DEFAULTS) -> Subgraph:
        """Return the subgraph of one edit: the new fact s -r-> o* and the statements about o*, for GLAME's R-GNN.

        Nodes are item ids ("_:subject" for a subject without an id) with `label`, `hop` and `role`. Edge keys are
        property ids ("edit" for a relation without an id), with `property`, `label` and `role`. `graph.graph` records
        what was read, sampled and dropped, and a `content_hash` that is the same for every backend. Items that
        Wikidata has merged are replaced by the merged item, and `graph.graph["redirects"]` lists them.

        Raises:
            EntityNotInGraphError: the graph has neither a statement nor a label of o*.
            UnknownLabelError: o* has no id, and no item has its label.
            AmbiguousLabelError: o* has no id, and several items have its label.
            TruthyOnlyError: `options.statements` is "all", and the source has truthy statements only.
        """
        return self.subgraphs([edit], options)[0]

    def subgraphs(self, edits: Iterable[EditLike], options: SubgraphOptions = DEFAULTS) -> list[Subgraph]:
        """Return the `subgraph` of each edit, in the order of the edits. Each hop sends shared requests for all edits.

        Raises:
            BadOptionError: an edit is not an `EditLike`, or the options are of another type. The errors of `subgraph`
                are raised as well.
        """
        check_options(options)
        edits = list(edits)
        for edit in edits:
            check_edit(edit)
        try:
            graphs = build_edit_subgraphs(edits, self.facts, options)
        except AmbiguousLabelError as error:
            ambiguous = [edit for edit in edits if edit.target_new_id is None and edit.target_new == error.label]
            raise self.with_sorted_candidates(ambiguous[0], error) from None  # the first edit that has this label
        translate(graphs, self.facts)  # replaces their labels in place, if another language than English is asked for
        return [self._with_source(graph) for graph in graphs]

    def with_sorted_candidates(self, edit: EditLike, error: WikidataCacheError) -> WikidataCacheError:
        """Return the error of an edit; if the label of its new object is ambiguous, with the best candidate first.

        All other errors stay as they are, and so does the order of candidates from an endpoint or a cache alone, which
        would need some ten more answers for each edit.
        """
        from wikidata_cache.linking.edit_links import sort_candidates

        if not isinstance(error, AmbiguousLabelError) or self.linker.knowledge.is_remote:
            return error
        return sort_candidates(self.linker, edit, error)

    def neighbourhood(self, entity: str, options: SubgraphOptions = _ITEM_DEFAULTS) -> Subgraph:
        """Return the subgraph around one item, without any edit. The statements of the item are hop 1.

        For an item without statements, the result is a single node. The options `roots`, `max_edges`, `leakage` and
        `rules` are only for edits.

        Raises:
            BadOptionError: an option has a wrong value.
            TruthyOnlyError: the source has only truthy statements of a node.
        """
        check_ids([entity])
        check_options(options)
        plain = replace(options, roots=(), max_edges=None, leakage=Leakage(), rules=None)
        graph = build_neighbourhood(entity, self.facts, plain)
        translate([graph], self.facts)  # in place, as in `subgraphs`
        return self._with_source(graph)

    def _with_source(self, graph: Subgraph) -> Subgraph:
        """Return the subgraph, after adding in place where its statements come from."""
        # The statements of the outermost nodes were not read, so the provenance leaves these nodes out.
        read = [node for node, hop in graph.nodes(data="hop") if hop < graph.graph["hops"]]
        graph.graph["source"] = self.source.provenance(sorted(filter(is_item, read)))
        return graph


def _is_packaged_extract(source: Source) -> bool:
    """Return whether a source has the packaged extract, with or without its labels, and no other file.

    The paths decide: a user's own file may be named extract.nt.gz too.
    """
    if not isinstance(source, OxigraphSource):
        return False
    extract = packaged_extract().resolve()
    files = {path.resolve() for path in source.files}
    return extract in files and files <= {extract, packaged_labels().resolve()}
