"""Rules of a graph: support and confidence by hand, the table, and what follows from an edit."""

import json
import random
from collections import defaultdict
from pathlib import Path

import pytest

from tests.wikidata_cache.wikidata_helpers import Edit, read_shared, run_cli, triples, write_edits, written
from wikidata_cache import Leakage, SubgraphOptions, WikidataCache, mining
from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import Statement
from wikidata_cache.mining import mine_rules
from wikidata_cache.subgraphs.rules import Rule, Rules, read_rules

# Ada, Bob, Cy, Dan (Q1 to Q4) and Eve (Q5); the towns Q11 to Q13; the countries Q21 and Q22.
FACTS = """\
Q1 P19 Q11
Q1 P19 Q12
Q2 P19 Q11
Q3 P19 Q12
Q4 P19 Q13
Q11 P17 Q21
Q12 P17 Q21
Q1 P27 Q21
Q2 P27 Q22
Q4 P27 Q21
Q1 P26 Q2
Q2 P26 Q1
Q3 P26 Q4
Q4 P26 Q5
Q1 P103 Q31
Q2 P103 Q31
Q1 P1412 Q31
Q1 P1412 Q32
Q2 P1412 Q32
"""
STATEMENTS = [Statement(*line.split()) for line in FACTS.splitlines()]
CITIZEN = "P19(x,y) & P17(y,z) => P27(x,z)"


def test_support_and_confidence_are_those_by_hand() -> None:
    mined = {str(rule): (rule.support, rule.confidence) for rule in mine_rules(STATEMENTS, support=1, confidence=0).all}
    # Born in Q21: Ada (in two of its towns, which counts once), Bob and Cy. Ada is its citizen, Bob another's, and the
    # graph does not say whose citizen Cy is.
    assert mined[CITIZEN] == (1, 0.5)
    # Spouses back: of Bob, Ada, Dan and Eve, the first two are stated, Dan has another one, Eve none is known.
    assert mined["P26(x,y) => P26(y,x)"] == (2, 0.6667)
    assert mined["P103(x,y) => P1412(x,y)"] == (1, 0.5)
    assert "P19(x,y) => P19(x,y)" not in mined
    assert [str(rule) for rule in mine_rules(STATEMENTS, support=2, confidence=0.7).all] == [
        "P26(x,y) & P103(y,z) => P103(x,z)"
    ]


@pytest.mark.parametrize("seed", range(4))
def test_mining_equals_counting_every_pair(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "_PATHS", 20)  # several parts
    draw = random.Random(seed)  # noqa: S311
    facts = {
        Statement(*(f"{kind}{draw.randint(1, n)}" for kind, n in zip("QPQ", (12, 4, 12), strict=True)))
        for _ in range(60)
    }
    edges = defaultdict(set)
    for s, p, o in facts:
        if s != o:
            edges[p].add((s, o))
    expected = {}
    for head, true in edges.items():
        having = {s for s, _ in true}
        bodies = {}
        for first, pairs in edges.items():
            bodies[f"{first}(x,y) => {head}(y,x)"] = {(y, x) for x, y in pairs}
            if first != head:
                bodies[f"{first}(x,y) => {head}(x,y)"] = pairs
            for second, others in edges.items():
                joined = {(x, z) for x, y in pairs for other, z in others if other == y and x != z}
                bodies[f"{first}(x,y) & {second}(y,z) => {head}(x,z)"] = joined
        for name, body in bodies.items():
            if (support := len(body & true)) >= 2:
                expected[name] = support, round(support / sum(x in having for x, _ in body), 4)
    mined = {str(rule): (rule.support, rule.confidence) for rule in mine_rules(facts, support=2, confidence=0).all}
    assert mined == expected and len(mined) > 10


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """The facts with labels, and a fact about a town that no rule reads."""
    names = sorted({part for statement in STATEMENTS for part in statement} | {"Q41", "P190"})
    lines = [*(line.replace(" ", "\t") for line in FACTS.splitlines()), "Q13\tP17\tQ22", "Q13\tP190\tQ41"]
    lines += [f"{name}\tlabel\tthe {name}" for name in names]
    return written(tmp_path / "graph.tsv", "".join(f"{line}\n" for line in lines))


def test_command_writes_a_table_that_is_read_again(graph: Path, tmp_path: Path) -> None:
    out = tmp_path / "rules.tsv"
    printed = run_cli("rules", graph, "--support", "1", "--confidence", "0.3", "--out", out)
    rules = read_rules(out)
    assert rules == mine_rules(
        [*STATEMENTS, Statement("Q13", "P17", "Q22"), Statement("Q13", "P190", "Q41")], support=1, confidence=0.3
    )
    assert f"{len(rules.all)} rules" in printed
    assert f"{CITIZEN}\t1\t0.3333\tthe P19, the P17 => the P27" in out.read_text().splitlines()[1:]
    printed = run_cli("rules", graph, "--support", "1", "--confidence", "0.3")
    assert read_rules(written(out, printed)) == rules, "without a header"
    with pytest.raises(BadOptionError, match="has no rule with --support 50"):
        run_cli("rules", graph, "--support", "50")


def test_labels_with_line_breaks_do_not_break_the_table(graph: Path, tmp_path: Path) -> None:
    graph.write_text(graph.read_text().replace("the P17", "the\u2028P17\x85"), encoding="utf-8")
    run_cli("rules", graph, "--support", "1", "--confidence", "0.3", "--out", tmp_path / "rules.tsv")
    assert CITIZEN in map(str, read_rules(tmp_path / "rules.tsv").all)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("P19(x,y) => P27(x,z)\t3\t0.5", "line 2, rule: found 'P19"),
        ("P19 and P17 => P27\t3\t0.5", "line 2, rule: found"),
        (f"{CITIZEN}\tmany\t0.5", "line 2, support and confidence: found"),
        (f"{CITIZEN}\t3", "line 2, support and confidence"),
        ("", "line 2, rule"),
    ],
)
def test_wrong_row_of_rules_is_named(row: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadOptionError, match=message):
        read_rules(written(tmp_path / "rules.tsv", f"rule\tsupport\tconfidence\n{row}\n"))


EDIT = Edit("Bob", "Town", relation="born in", subject_id="Q2", relation_id="P19", target_new_id="Q13")
RULES = Rules(
    [
        Rule("P19", "P17", "P27", "x,z", 90, 0.8),
        Rule("P19", "P17", "P1412", "x,z", 10, 0.6),
        Rule("P19", None, "P551", "x,y", 10, 0.5),
        Rule("P26", None, "P26", "y,x", 90, 0.9),
    ]
)


def test_edit_brings_its_consequences_and_nothing_else(graph: Path) -> None:
    cache = WikidataCache(graph)
    assert ("Q13", "P190", "Q41") in triples(cache.subgraph(EDIT))
    stated = Edit("Dan", "Town", relation="born in", subject_id="Q4", relation_id="P19", target_new_id="Q12")
    subgraph = cache.subgraph(EDIT, SubgraphOptions(rules=RULES))
    # Bob is a citizen of Q22 already, so of two rules with one premise only the other one changes something.
    assert triples(subgraph) == {("Q2", "P19", "Q13"), ("Q13", "P17", "Q22"), ("Q2", "P1412", "Q22")}
    assert subgraph.edges["Q2", "Q22", "P1412"]["role"] == "consequence"
    moved = cache.subgraph(stated, SubgraphOptions(rules=Rules(RULES.all[:1])))
    assert triples(moved) == {("Q4", "P19", "Q12")}, "Dan is a citizen of Q21 already"
    assert moved.graph["consequences"] == []


def test_report_of_a_subgraph_names_rules(graph: Path, tmp_path: Path) -> None:
    table = tmp_path / "rules.tsv"
    table.write_text("rule\tsupport\tconfidence\n" + "".join(f"{r}\t{r.support}\t{r.confidence}\n" for r in RULES.all))
    edits = write_edits(tmp_path / "edits.jsonl", EDIT, Edit("Cy", "Dan", None, "spouse", "Q3", "P26", "Q4"))
    run_cli("fetch", edits, "--graph", graph, "--rules", table, "--out", tmp_path / "s.jsonl")
    first, second = (json.loads(line)["graph"] for line in (tmp_path / "s.jsonl").read_text().splitlines())
    assert first["consequences"] == [
        {
            "statement": ["Q2", "P1412", "Q22"],
            "labels": ["the Q2", "the P1412", "the Q22"],
            "rule": "P19(x,y) & P17(y,z) => P1412(x,z)",
            "support": 10,
            "confidence": 0.6,
        }
    ], "P551 has no label in this graph"
    assert [consequence["statement"] for consequence in second["consequences"]] == [["Q4", "P26", "Q3"]]
    assert first["rules"]["count"] == 4
    silent = write_edits(tmp_path / "silent.jsonl", Edit("Bob", "Town", None, "died in", "Q2", "P20", "Q13"))
    shown = run_cli("show", f"{silent}:1", "--graph", graph, "--rules", table)
    assert "from which nothing follows (--rules)" in shown and f"No rule of {table} adds a fact" in shown


def test_leakage_guard_also_hides_consequences(graph: Path) -> None:
    guarded = SubgraphOptions(rules=RULES, leakage=Leakage(answers=("the Q22",)))
    assert triples(WikidataCache(graph).subgraph(EDIT, guarded)) == {("Q2", "P19", "Q13")}


@pytest.mark.slow
def test_rules_of_a_real_graph(tmp_path: Path) -> None:
    statements = WikidataCache(read_shared("wikidata/wikidata.nt.gz")).source.statements()  # type: ignore[attr-defined]
    mined = {str(rule): rule for rule in mine_rules(statements, support=100, confidence=0.8).all}
    assert mined["P54(x,y) & P641(y,z) => P641(x,z)"].support == 218 and CITIZEN not in mined
    assert mined["P26(x,y) => P26(y,x)"].confidence == 0.9481
