"""`WikidataCache`, the main class: it builds subgraphs of edits, and looks up labels and ids, in any source."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import networkx as nx

from wikidata_cache import deny_lists
from wikidata_cache.answers.modes import Mode
from wikidata_cache.endpoints.rate_limit import offline_forced
from wikidata_cache.errors import BadOptionError, CacheMissError
from wikidata_cache.ids import check_ids, is_item
from wikidata_cache.source_spec import SourceSpec, open_source
from wikidata_cache.sources.source import Binding, Source
from wikidata_cache.sources.user_queries import check_select, forbid_service
from wikidata_cache.subgraphs.build import edit_subgraphs, item_subgraph
from wikidata_cache.subgraphs.edit_ends import EditLike, check_edit
from wikidata_cache.subgraphs.facts import Facts
from wikidata_cache.subgraphs.options import Direction, Leakage, Root, Statements, SubgraphPlan
from wikidata_cache.subgraphs.sampling import Policy
from wikidata_cache.subgraphs.subgraph import Subgraph

if TYPE_CHECKING:
    from wikidata_cache.linking.linker import Linker


class WikidataCache:
    """Subgraphs, labels and ids from a source: a graph file, a folder, a store on disk or an endpoint.

    `source` is a `Source`, or anything that `open_source` accepts; `open_source` explains the options from `cache` to
    `graph_name`. Without a source, the cache file is read offline. Wikimedia endpoints require `contact`.
    `meta_properties` and `internal_classes` replace the packaged deny-lists (`deny_lists.py`). Each is a collection of
    ids, or the path of a TSV file (id, label) such as `data/meta_properties.tsv`; () switches the list off.
    The object keeps all answers in memory.
    """

    def __init__(
        self,
        source: SourceSpec | Source | None = None,
        *,
        cache: str | Path | None = None,
        mode: Mode | None = None,
        packs: Sequence[str | Path] = (),
        as_of: str | None = None,
        contact: str | None = None,
        timeout: float = 90.0,
        graph_name: str = "wikidata",
        meta_properties: deny_lists.DenyList | None = None,
        internal_classes: deny_lists.DenyList | None = None,
    ) -> None:
        self.source: Source = (
            source
            if isinstance(source, Source)
            else open_source(
                source,
                contact=contact,
                timeout=timeout,
                cache=cache,
                mode=mode,
                packs=packs,
                as_of=as_of,
                graph_name=graph_name,
            )
        )
        self.facts = Facts(
            self.source,
            meta=deny_lists.meta_properties(meta_properties),
            internal=deny_lists.internal_classes(internal_classes),
        )

    def labels(self, ids: Iterable[str]) -> dict[str, str]:
        """Return {id: label}: English, else mul, en-gb, en-ca, en-us, simple. Ids without a label are absent."""
        return self.facts.labels(ids)

    def find(self, label: str) -> tuple[str, ...]:
        """Return the ids of all items and properties with exactly this label, sorted."""
        return self.facts.named([label])[label]

    def describe(self, graph: nx.MultiDiGraph) -> None:
        """Add the attribute `description` in place to every node of a subgraph whose item has a description.

        One request covers 200 nodes. `Subgraph.to_html` shows the descriptions. The content hash and everything else
        in the graph stay the same. Offline, nodes whose description is not in the cache get none.
        """
        items = set(filter(is_item, graph))
        try:
            found = self.facts.descriptions(items)
        except CacheMissError as miss:
            found = self.facts.descriptions(items.difference(miss.ids))
        for node, text in found.items():
            graph.nodes[node]["description"] = text

    @cached_property
    def linker(self) -> "Linker":
        """The `Linker` over this source, for example `cache.linker.link("Los Angeles", relation="P551")`."""
        from wikidata_cache.linking.linker import open_linker  # a sixth of the package's import time

        return open_linker(self.facts)

    def query(self, sparql: str) -> list[Binding]:
        """Run your own SELECT query and return its rows. The cache keeps the answer of an endpoint.

        The errors of the source are raised as well.

        Raises:
            UserQueryError: the text is not a SELECT query.
            ServiceForbiddenError: the query contains SERVICE, and the graph is local or the cache is offline.
            CacheMissError: the cache is offline and does not hold the answer.
        """
        check_select(sparql)
        if offline_forced():
            forbid_service(sparql, "KG_OFFLINE is set")
        return list(self.source.select(sparql))

    def subgraph(
        self,
        edit: EditLike,
        *,
        hops: int = 2,
        per_node: int = 20,
        seed: int = 0,
        roots: Sequence[Root] = ("target_new",),
        max_edges: int | None = None,
        policy: Policy = "uniform",
        direction: Direction = "out",
        statements: Statements = "truthy",
        leakage: Leakage | None = None,
    ) -> Subgraph:
        """Return the subgraph of one edit: the new fact s -r-> o* and the statements about o*, for GLAME's R-GNN.

        The edge of the edit is hop 1, and the statements of o* are hop 2. Each root is expanded `hops - 1` times, and
        each expanded node keeps `per_node` statements, which `policy` chooses (`subgraphs/sampling.py`). `roots` may
        also contain "subject" and "target_true"; without "subject", the statements of the subject stay out.
        `max_edges` keeps the edges nearest to the edit, and always the edge of the edit itself.

        - `direction="both"` also expands along incoming statements; every edge keeps its true direction. A hub is a
          node with more than 500 incoming statements: it is not expanded along them, and `graph.graph["hubs"]`
          lists it.
        - `statements="all"` takes statements of every rank except deprecated, not only the truthy ones. Each edge then
          has `rank`, `start` and `end` (of the claim of best rank, of several the latest) and the list `claims`.
          Incoming statements are always truthy ones. The source must hold full statements.
        - `leakage` keeps out statements that would reveal the answers of a test. By default only the replaced edge
          s -r-> o stays out, in either direction.

        Nodes are item ids ("_:subject" for a subject without an id) with `label`, `hop` and `role`. Edge keys are
        property ids ("edit" for a relation without an id), with `property`, `label` and `role`. `graph.graph` records
        what was read, sampled and dropped, and a `content_hash` that is the same for every backend. Items that
        Wikidata has merged are replaced by the merged item, and `graph.graph["redirects"]` lists them.

        Raises:
            EntityNotInGraphError: the graph says nothing about o*.
            UnknownLabelError: o* has no id, and no item has its label.
            AmbiguousLabelError: o* has no id, and several items have its label.
            TruthyOnlyError: `statements="all"`, and the source holds truthy statements only.
            BadOptionError: an option has a bad value.
        """
        plan = SubgraphPlan(hops, per_node, seed, roots, max_edges, policy, direction, statements)
        return self._subgraphs([edit], plan, leakage or Leakage())[0]

    def subgraphs(
        self,
        edits: Iterable[EditLike],
        *,
        hops: int = 2,
        per_node: int = 20,
        seed: int = 0,
        roots: Sequence[Root] = ("target_new",),
        max_edges: int | None = None,
        policy: Policy = "uniform",
        direction: Direction = "out",
        statements: Statements = "truthy",
        leakage: Leakage | Sequence[Leakage] | None = None,
    ) -> list[Subgraph]:
        """Return the `subgraph` of each edit, in the order of the edits. Each hop sends shared requests for all edits.

        `leakage` is one `Leakage` for all edits, or a sequence with one for each edit. Raises the errors of `subgraph`,
        and BadOptionError where the number of `leakage` entries differs from the number of edits.
        """
        plan = SubgraphPlan(hops, per_node, seed, roots, max_edges, policy, direction, statements)
        return self._subgraphs(list(edits), plan, Leakage() if leakage is None else leakage)

    def neighbourhood(
        self,
        entity: str,
        *,
        hops: int = 1,
        per_node: int = 20,
        seed: int = 0,
        policy: Policy = "uniform",
        direction: Direction = "out",
        statements: Statements = "truthy",
    ) -> Subgraph:
        """Return the subgraph around one item, without any edit. The statements of the item are hop 1.

        For an item without statements, the result is a single node. Raises BadOptionError or TruthyOnlyError.
        """
        check_ids([entity])
        plan = SubgraphPlan(hops, per_node, seed, (), None, policy, direction, statements)
        return self._with_source(item_subgraph(entity, self.facts, plan))

    def _subgraphs(
        self, edits: list[EditLike], plan: SubgraphPlan, leakage: Leakage | Sequence[Leakage]
    ) -> list[Subgraph]:
        for edit in edits:
            check_edit(edit)
        each = [leakage] * len(edits) if isinstance(leakage, Leakage) else leakage
        if len(each) != len(edits):
            raise BadOptionError(f"leakage: found {len(each)} for {len(edits)} edits; give one, or one for each edit.")
        return [self._with_source(graph) for graph in edit_subgraphs(edits, self.facts, plan, each)]

    def _with_source(self, graph: Subgraph) -> Subgraph:
        # The statements of the outermost nodes were not read, so the provenance leaves these nodes out.
        read = (node for node, hop in graph.nodes(data="hop") if hop < graph.graph["hops"])
        graph.graph["source"] = self.source.provenance(sorted(filter(is_item, read)))
        return graph
