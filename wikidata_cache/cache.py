"""`WikidataCache`, the class to start with: subgraphs of edits, labels, ids and linking, from any source."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import networkx as nx

from wikidata_cache import deny_lists
from wikidata_cache.answers.modes import Mode, offline_forced
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

    `source` is whatever `open_source` takes, or a `Source`; the options from `cache` to `graph_name` are
    explained there. Without a source the cache file is read offline. `contact` is for Wikimedia endpoints.
    `meta_properties` and `internal_classes` replace the packaged deny-lists (`deny_lists.py`): the ids, or the path of
    a TSV file (id, label) such as `data/meta_properties.tsv`; () switches one off.
    Answers are kept in memory as long as the object lives.
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
        """English labels (else mul, en-gb, en-ca, en-us, simple) by id; ids without one are absent."""
        return self.facts.labels(ids)

    def find(self, label: str) -> tuple[str, ...]:
        """The ids of all items and properties with exactly this label, sorted."""
        return self.facts.named([label])[label]

    def describe(self, graph: nx.MultiDiGraph) -> None:
        """Add `description` to those nodes of a subgraph whose items have one, in place: a request for 200 nodes.

        `Subgraph.to_html` shows them. Neither the content hash nor anything else of the graph changes. Offline,
        what the cache lacks stays without one.
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
        """The `Linker` over this graph, as in `cache.linker.link("Los Angeles", relation="P551")`."""
        from wikidata_cache.linking.linker import open_linker  # a sixth of the package's import time

        return open_linker(self.facts)

    def query(self, sparql: str) -> list[Binding]:
        """The rows of a SELECT query of your own; an endpoint's answer is kept in the cache like any other.

        Raises UserQueryError where it is no SELECT query, ServiceForbiddenError for SERVICE in a graph of
        this machine or offline, CacheMissError offline, and what the source raises.
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
        """The new fact s -r-> o* with what the graph says about o*, for GLAME's relational GNN.

        The edit's own edge is hop 1, the statements of o* are hop 2: each root is expanded `hops - 1` times,
        and each expanded node keeps `per_node` statements, chosen by `policy` (`subgraphs/sampling.py`). `roots`
        may add "subject" (without it the subject's statements stay out) and "target_true". `max_edges` keeps
        the nearest edges, the edit's own always.

        - `direction="both"` expands along incoming statements too; edges keep their true direction. A hub (a
          node with more than 500 of them) is not, and is listed in `graph.graph["hubs"]`.
        - `statements="all"` takes statements of every rank but deprecated, not only the truthy ones; edges get
          `rank`, `start` and `end` (of the best claim, then the latest) and all `claims`. Incoming statements
          are truthy ones. The source must hold full statements.
        - `leakage` keeps out what gives a test away; by default the replaced edge s -r-> o, in either direction.

        Nodes are item ids ("_:subject" for a subject without one) with `label`, `hop` and `role`; edge keys
        are property ids ("edit" for a relation without one), with `property`, `label` and `role`. What was
        read, sampled and dropped stands in `graph.graph`, with a `content_hash` equal over all backends; ids
        that Wikidata has merged are followed, and stand there as `redirects`.

        Raises EntityNotInGraphError where the graph does not know o*; UnknownLabelError or AmbiguousLabelError
        where o* has no id and its label does not settle it; TruthyOnlyError; BadOptionError.
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
        """`subgraph` of each edit, in order, with the requests of all edits batched hop by hop.

        `leakage` may be one for all, or one for each edit. Raises what `subgraph` raises, such as
        BadOptionError for another number of them.
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
        """What the graph says about one item, without any edit: its statements are hop 1.

        An item of which the graph says nothing gives a lone node. Raises BadOptionError or TruthyOnlyError.
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
        # Statements of the outermost nodes were not read, so they are no part of the provenance.
        read = (node for node, hop in graph.nodes(data="hop") if hop < graph.graph["hops"])
        graph.graph["source"] = self.source.provenance(sorted(filter(is_item, read)))
        return graph
