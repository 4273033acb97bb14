"""What counts as the graph that an edit was made with, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from kg_edit.errors import PatchError
from kg_edit.ledger.removal import check_same_graph


def record(**told: Any) -> dict[str, Any]:
    return {"edit": {"id": "heat"}, **told}


HASHED = record(graph={"content_hash": "a", "source": {"kind": "cache", "fetched_at": ["1", "2"]}}, nodes=3, edges=2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (HASHED, {**HASHED, "graph": {"content_hash": "a", "source": {"kind": "online", "fetched_at": ["3"]}}}),
        (record(graph={"kind": "mine", "sizes": [1, 2]}), record(graph={"kind": "mine", "sizes": (1, 2)})),
        (record(graph={"fetched_at": "1"}), record(graph={"fetched_at": "2", "urls": ["u"]})),
        (record(norms={"change": 1.0}), record(norms={"change": 2.0})),
    ],
)
def test_one_graph_from_several_places(old: dict[str, Any], new: dict[str, Any]) -> None:
    check_same_graph([old], [new])


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        (HASHED, {**HASHED, "graph": {"content_hash": "b"}}, "graph.content_hash"),
        (HASHED, {**HASHED, "edges": 3}, "edges: 2 in the patch, 3 now"),
        (HASHED, record(), "graph"),
        (record(graph={"kind": "mine"}), record(graph={"kind": "yours"}), "graph.kind"),
        (record(requests=[record()]), record(requests=[]), "requests"),
    ],
)
def test_another_graph_names_the_edit_and_the_way_out(old: dict[str, Any], new: dict[str, Any], field: str) -> None:
    with pytest.raises(PatchError, match=f"the edit 'heat' was made with .{field}.*--graph"):
        check_same_graph([HASHED, old], [HASHED, new])
