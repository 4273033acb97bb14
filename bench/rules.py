"""How many rules a real graph has, on how many edits of CounterFactPlus they fire, and whether they give the answer.

Rules are mined once with low thresholds and filtered for each row. A rule fires if it gives a fact that the graph does
not have. The answer is among the facts if the object of one of them is the answer of the edit's portability question,
or an alias of it. The first row reads all statements of o* instead. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean

from kg_edit.datasets import find_dataset
from wikidata_cache import SubgraphOptions, WikidataCache
from wikidata_cache.mining import mine_rules
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.subgraphs.rules import Rules

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ROWS = ((10, 0.1), (20, 0.3), (20, 0.5), (50, 0.5), (100, 0.5), (100, 0.7), (100, 0.9))  # support, confidence


def main() -> None:
    """Mine the rules, apply them to every edit, and print a line for each pair of thresholds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=Path, default=DATA / "counterfact_plus" / "dev.json")
    arguments = parser.parse_args()
    graph = WikidataCache([DATA / "wikidata" / name for name in ("wikidata.nt.gz", "labels.nt.gz")])
    edits = [edit for record in find_dataset("counterfact-plus")(arguments.edits) for edit in record.edits]
    assert isinstance(graph.source, OxigraphSource)  # noqa: S101 - files
    start = time.process_time()
    mined = mine_rules(graph.source.statements(), support=ROWS[0][0], confidence=ROWS[0][1]).all
    found: dict[str, dict[str, float]] = {"seconds of mining": {"cpu": round(time.process_time() - start, 1)}}
    for support, confidence in (None, None), *ROWS:
        rules = None
        if support is not None:
            rules = Rules(rule for rule in mined if rule.support >= support and rule.confidence >= confidence)
        sizes, answered = [], 0
        for edit in edits:
            subgraph = graph.subgraph(edit, SubgraphOptions(per_node=500, rules=rules))
            role = "statement" if rules is None else "consequence"
            ends = {target for _, target, data in subgraph.edges(data=True) if data["role"] == role}
            names = {str(subgraph.nodes[end]["label"]).casefold() for end in ends}
            answers = {name.casefold() for one in edit.portability for name in (one.answer, *one.aliases)}
            sizes.append(len(names))
            answered += not names.isdisjoint(answers)
        row = {
            "rules": len(rules.all) if rules else 0,
            "relations": len({rule.first for rule in rules.all}) if rules else 0,
            "edits": len(edits),
            "edits with a fact": sum(map(bool, sizes)),
            "facts an edit": round(mean(sizes), 2),
            "edits with the answer among them": answered,
        }
        name = "all statements of o*" if rules is None else f"support {support}, confidence {confidence}"
        found[name] = row
        print(name, row)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
