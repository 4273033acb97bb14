"""How many rules a real graph has, on how many edits they fire, and whether they give what benchmarks ask.

Rules are mined once with low thresholds and filtered for each row. A rule fires if it gives a fact that the graph does
not have. A question is answered if a name of its answer is the object of a fact, or of the statement of o* from which a
fact follows. The first row reads all statements of o* instead. Asked are the portability questions of CounterFactPlus
and the two-hop questions of the packaged Ripples whose answer the graph states. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import mean

from kg_edit.edits.record import BenchmarkRecord
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.storage.packaged import packaged_benchmark
from wikidata_cache import SubgraphOptions, WikidataCache
from wikidata_cache.mining import mine_rules
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.subgraphs.rules import Rule, Rules

DATA = Path(os.environ.get("KG_EDIT_MEASUREMENT_DATA", "measurement-data"))  # docs/contributing/data.md
ROWS = ((10, 0.1), (20, 0.3), (20, 0.5), (50, 0.5), (100, 0.5), (100, 0.7), (100, 0.9))  # support, confidence
STATED = ("ripples-known.stated", "ripples-unknown.stated")


def main() -> None:
    """Mine the rules, apply them to the edits of both data sets, and print a line for each pair of thresholds."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    graph = WikidataCache([DATA / "wikidata" / name for name in ("wikidata.nt.gz", "labels.nt.gz")])
    assert isinstance(graph.source, OxigraphSource)  # noqa: S101 - files
    start = time.process_time()
    mined = mine_rules(graph.source.statements(), support=ROWS[0][0], confidence=ROWS[0][1]).all
    result: dict[str, object] = {"seconds of mining": round(time.process_time() - start, 1)}
    sets = {
        "counterfact-plus": find_dataset("counterfact-plus")(DATA / "counterfact_plus" / "dev.json"),
        "ripples": find_dataset("ripples")(packaged_benchmark("ripples-smollm2-135m")),
    }
    for name, records in sets.items():
        for support, confidence in ((None, None), *ROWS):
            if support is None or confidence is None:
                row = applied(graph, records, None)
                result[f"{name}, all statements of o*"] = row
            else:
                rules = [rule for rule in mined if rule.support >= support and rule.confidence >= confidence]
                row = applied(graph, records, rules)
                result[f"{name}, support {support}, confidence {confidence}"] = row
            print(name, support, confidence, row, flush=True)
    print(json.dumps(result))


def applied(graph: WikidataCache, records: tuple[BenchmarkRecord, ...], rules: list[Rule] | None) -> dict[str, float]:
    """Return what a graph method reads for the edits of the records, by these rules or without any."""
    options = SubgraphOptions(per_node=500, rules=None if rules is None else Rules(rules))
    sizes = []
    count = 0
    answered = 0
    for record in records:
        (edit,) = record.edits
        subgraph = graph.subgraph(edit, options)
        edges = subgraph.edges(data=True)
        labels = dict(subgraph.nodes(data="label"))
        read = {labels[end].casefold() for _, end, data in edges if data["role"] != "edit"}
        facts = [data for _, _, data in edges if data["role"] == ("statement" if rules is None else "consequence")]
        questions = [(question.answer, *question.aliases) for question in edit.portability]
        for probe in record.probes:
            if probe.measures in STATED:
                questions += [names for query in probe.queries for names in query.answers]
        sizes.append(len(facts))
        count += len(questions)
        answered += sum(any(name.casefold() in read for name in names) for names in questions)
    return {
        "rules": len(rules or ()),
        "relations": len({rule.first for rule in rules or ()}),
        "edits": len(sizes),
        "edits with a fact": sum(map(bool, sizes)),
        "facts an edit": round(mean(sizes), 2),
        "questions": count,
        "questions answered": answered,
    }


if __name__ == "__main__":
    main()
