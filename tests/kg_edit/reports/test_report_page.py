"""The page of an edit run: what it shows, that nothing in it is more than text, and that a failed edit is not green."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import networkx as nx
import pytest
import torch

from kg_edit.callbacks import LossStep
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.report_page import report_page
from kg_edit.reports.rows import Reading, ReportProbe, ReportRow
from tests.kg_edit.reports.test_report import NASTY
from tests.wikidata_cache.view.test_svg import HOSTILE

SCRIPTS = ("</script><script>window.hacked=1</script>", "<img src=x onerror=window.hacked=1>", "@@SCRIPT@@ \"'><b>")
WEIGHT = "model.layers.1.mlp.down_proj.weight"


def row(edit: str, text: str, *, success: bool = True, right: bool = True, kind: str = "rewrite") -> ReportRow:
    probe = ReportProbe(kind=kind, prompt=text, ask=text, score=text, wanted=text)  # type: ignore[arg-type]
    unedited = Reading(text="unedited", nats=8.0, success=False, right=False)
    edited = Reading(text=text, nats=1.25, success=success, right=right)
    return ReportRow(edit=edit, probe=probe, unedited=unedited, edited=edited)


def patch_of(
    names: Sequence[str], *, norm: float | None = 10.0, rank: int | None = None, further: str = ""
) -> WeightPatch:
    factors = Factors(left=torch.ones(4, rank or len(names)), right=torch.ones(9, rank or len(names)))
    records: list[dict[str, Any]] = [
        {"edit": {"id": name}, "method": "rome", "steps": 3, "loss_before": 5.0, "loss_after": 0.5} for name in names
    ]
    if further:
        records[0] |= {
            "requests": [{"edit": {"subject": "Rome", "prompt": f"{{}} is in {further}", "target_new": further}}]
        }
    provenance: dict[str, Any] = {"model": {"name": "a <model>"}, "edits": records}
    return WeightPatch(
        factors={WEIGHT: factors}, provenance=provenance | ({"weight_norms": {WEIGHT: norm}} if norm else {})
    )


def graph(label: str = "Rome") -> nx.MultiDiGraph:
    subgraph = nx.MultiDiGraph()
    subgraph.add_node("s", label=label, role="subject", hop=0)
    subgraph.add_node("o", label=label, role="target_new", hop=1)
    subgraph.add_edge("s", "o", key="edit", label=label, role="edit")
    return subgraph


class Seen(HTMLParser):
    """The tags of a page with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(re.sub(r"<(style|script)>.*?</\1>", r"<\1></\1>", page, flags=re.DOTALL))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("text", [*SCRIPTS, *NASTY.values(), *HOSTILE])
def test_page_escapes_every_text(text: str) -> None:
    text = f"a {text}"
    steps = [LossStep(edit=text, step=0, loss=1.0)]
    page = report_page(
        [row(text, text)],
        patch_of([text], further=text),
        curves={text: steps, f"{text}..b": steps},
        graphs={text: graph(text)},
    )
    plain = report_page(
        [row("1", "a")], patch_of(["1"], further="a"), curves={"1": steps, "1..b": steps}, graphs={"1": graph("a")}
    )
    assert "Also edited: 1 fact of the subgraph" in Seen(plain).text and "Rome is in a a" in Seen(plain).text
    assert [tag for tag, _ in Seen(page).tags] == [tag for tag, _ in Seen(plain).tags]
    assert not any(name.startswith("on") for _, attributes in Seen(page).tags for name in attributes)
    assert all(letter not in page for letter in "\x00\x1b\u202e")


def test_page_requests_nothing_and_runs_only_its_script() -> None:
    page = report_page([row(name, "a") for name in "12"], patch_of(["1", "2"]), graphs={"1": graph()})
    seen = Seen(page)
    links = [value for _, had in seen.tags for name, value in had.items() if name in ("src", "href", "xlink:href")]
    assert links and all(str(link).startswith("#edit-") for link in links)
    assert not re.search(r"url\(|@import|https?:", page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    policy = next(had["content"] or "" for tag, had in seen.tags if tag == "meta" and "http-equiv" in had)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy


@pytest.mark.parametrize(
    ("success", "right", "kind", "words"),
    [
        (True, True, "good", "success"),
        (False, True, "warn", "more likely, failed"),
        (False, False, "bad", "failed"),
        (True, False, "warn", "success"),
    ],
)
def test_badge_is_green_only_for_success_and_right(success: bool, right: bool, kind: str, words: str) -> None:
    page = report_page([row("1", "Rome", success=success, right=right)], patch_of(["1"]))
    badges = re.findall(r'class="badge (\w+)">([^<]+)<', page)
    assert badges == [(kind, words)]  # at the edit itself: a single edit has no table
    assert ('class="answer good"' in page) == ('<span class="good">✓' in page) == (kind == "good")
    (verdict,) = re.findall(r'<p class="verdict"><span class="(\w+)">(\d of \d) edits succeeded', page)
    assert verdict == (("good", "1 of 1") if success else ("bad", "0 of 1"))


def test_verdict_with_failed_edits_is_not_green() -> None:
    page = report_page([row("a", "A"), row("b", "B", success=False)], patch_of(["a", "b"]))
    assert '<span class="warn">1 of 2 edits succeeded</span>; 1 failed: <a href="#edit-2">b</a>' in page
    assert re.findall(r'<tr data-success="(\w+)">', page) == ["yes", "no"]


def test_norms_are_compared_with_their_weights() -> None:
    """Each edit is a column: |1 1^T| of [4, 9] is 6; both together are 12."""
    page = report_page([row("a", "A"), row("b", "B")], patch_of(["a", "b"]))
    text = Seen(page).text
    assert "60 %" in text and "120 %" in text
    assert page.count("model.<wbr>layers.<wbr>1") == 3
    assert "the steps in between were not saved" in text and "5 → 0.5 in 3 steps" in text


@pytest.mark.parametrize(("norm", "width"), [(60.0, "10.0"), (12.0, "50.0"), (3.0, "100.0")])
def test_bar_of_a_share_is_true_to_scale(norm: float, width: str) -> None:
    """A change of norm 6 beside weights of the norms 60, 12 and 3: a full bar is 100 %."""
    page = report_page([row("a", "A")], patch_of(["a"], norm=norm))
    assert re.findall(r'class="meter" title="a full bar is 100 %"><i style="width: ([\d.]+)%', page) == [width]


def test_single_edit_is_described_once() -> None:
    alone, several = (report_page([row(n, n) for n in names], patch_of(list(names))) for names in ("a", "ab"))
    assert "All edits" not in alone and "The change of all edits" not in alone and alone.count("model.<wbr>") == 1
    assert "All edits" in several and "The change of all edits" in several


def test_subgraph_is_also_a_list() -> None:
    drawn = graph()
    drawn.graph["old_edge"] = {"subject": "s", "property": "P1", "object": "p", "label": "in", "object_label": "Paris"}
    drawn.add_node("i", label="Italy", role="neighbour", hop=2)
    drawn.add_edge("o", "i", label="country", role="statement")
    page = report_page([row("a", "A")], patch_of(["a"]), graphs={"a": drawn})
    (statements,) = re.findall(r'<dl class="statements">(.*?)</dl>', page)
    assert Seen(statements).text == "RomeRome Romein ParisRomecountry Italy"


def test_norms_without_weights_or_of_a_batch() -> None:
    old = Seen(report_page([row("a", "A")], patch_of(["a"], norm=None))).text
    assert "6" in old and "%" not in old.replace("0 to 100 %", "")
    together = Seen(report_page([row("a", "A"), row("b", "B")], patch_of(["a", "b"], rank=4))).text
    assert "no separate change of weights for this edit" in together


def test_loss_is_drawn_with_its_terms() -> None:
    steps = [LossStep(edit="a", step=n, loss=4.0 - n, nll=3.0 - n, kl=0.1) for n in range(3)]
    page = report_page([row("a", "A")], patch_of(["a"]), curves={"a": steps})
    assert [name for name in ("objective", "nll of the target", "kl, unweighted") if f">{name}<" in page] != []
    assert len(re.findall(r'<path class="line line-\d" d="M[\d.]+ [\d.]+(?:L[\d.]+ [\d.]+){2}"', page)) == 3
    assert "from 4 to 2 nats in 3 evaluations" in page


@pytest.mark.parametrize(("count", "open_ones"), [(3, 3), (300, 0)])
def test_many_edits_are_folded(count: int, open_ones: int) -> None:
    names = [f"row-{number}" for number in range(count)]
    page = report_page(
        [row(name, name) for name in names], patch_of(names), graphs={name: graph(name) for name in names}
    )
    seen = Seen(page)
    details = [had for tag, had in seen.tags if tag == "details" and had.get("class") == "edit"]
    assert len(details) == page.count("<tr data-success=") == page.count('class="subgraph"') == count
    assert sum("open" in had for had in details) == open_ones
    assert len(page) < 20_000 + 6_000 * count
