"""`wikidata-cache rules`: what usually follows from a fact in a graph, as a table for edits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kg_common.atomic import check_out, write_atomically
from kg_common.terminal import one_line
from wikidata_cache.cli.console import echo
from wikidata_cache.errors import BadOptionError


def rules(
    graph: Annotated[
        str,
        typer.Argument(
            metavar="GRAPH",
            help="A graph file, a folder, a store made by `load`, or the word extract: the packaged graph.",
        ),
    ],
    out: Annotated[Path | None, typer.Option(metavar="FILE.tsv", help="Table of rules to write.")] = None,
    support: Annotated[
        int, typer.Option(min=1, metavar="N", help="Least number of pairs for which the whole rule is in the graph.")
    ] = 20,
    confidence: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Least confidence: of the pairs of the rule's body whose first item has any statement of the head's "
            "relation, the share that has the head, such as 0.5 for one of two.",
        ),
    ] = 0.5,
) -> None:
    """Mine the rules of a graph: which other facts follow from a fact.

    A rule is such as P54(x,y) & P641(y,z) => P641(x,z): who is in a team does its sport. It has a support and a
    confidence (AMIE's, under the partial completeness assumption). `kg-edit edit --set graph.rules=FILE.tsv` reads the
    facts that follow from an edit instead of all facts around it.

    Examples:

    - `wikidata-cache rules extract`
    - `wikidata-cache rules wd/ --out rules.tsv`
    - `wikidata-cache rules wikidata.nt.gz,labels.nt.gz --support 100 --confidence 0.8 --out rules.tsv`
    """
    from wikidata_cache.cache import WikidataCache
    from wikidata_cache.mining import mine_rules
    from wikidata_cache.sources.oxigraph import OxigraphSource

    if out is not None:
        check_out(out, ".tsv", option="--out", inputs=map(Path, graph.split(",")))
    opened = WikidataCache(graph)
    if not isinstance(opened.source, OxigraphSource):
        raise BadOptionError(f"{graph} is an endpoint, but rules are mined from a whole graph: give a file or a store.")
    mined = mine_rules(opened.source.statements(), support=support, confidence=confidence)
    if not mined.all:
        raise BadOptionError(
            f"{opened.source.name} has no rule with --support {support} and --confidence {confidence}; give smaller "
            f"numbers."
        )
    relations: set[str] = set()
    for rule in mined.all:
        relations.update(rule.relations)
    labels = opened.labels(relations)
    rows = [f"{rule}\t{rule.support}\t{rule.confidence}\t{one_line(rule.words(labels))}" for rule in mined.all]
    if out is None:
        echo("\n".join(rows))
        return
    table = ["rule\tsupport\tconfidence\twords", *rows]
    write_atomically(out, "".join(f"{row}\n" for row in table).encode())
    first_relations = {rule.first for rule in mined.all}
    echo(f"{out}: {len(rows):,} rules of {len(first_relations):,} relations")
