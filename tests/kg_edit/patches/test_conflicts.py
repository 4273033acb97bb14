"""Conflicts: edits of one fact, and edits under nearly one key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.patches.conflicts import Conflict, find_conflicts
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.ledger import Ledger
from tests.kg_edit.ship.ledger.ledgers import made_up

FRANCE = Edit(id="e1", subject="France", prompt="In {}, the capital is", target_new="Rome", relation="capital")


def found_between(tmp_path: Path, **fields: Any) -> tuple[Conflict, ...]:
    other = Edit(**{**FRANCE.model_dump(exclude_defaults=True), "id": "e2", **fields})
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(made_up([FRANCE]))
    ledger.add(made_up([other]))
    return ledger.conflicts()


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"target_new": "Oslo"}, "contradiction"),
        ({"target_new": "Oslo", "prompt": "The capital of {} is", "subject": "france"}, "contradiction"),
        ({"target_new": "Oslo", "relation": "seat"}, "contradiction"),  # the same prompt
        ({}, "duplicate"),
        ({"target_new": "rome", "prompt": "The capital of {} is"}, "duplicate"),
        ({"subject": "Italy", "target_new": "Oslo"}, None),
        ({"prompt": "{} lies in", "relation": "continent", "target_new": "Asia"}, None),
        ({"prompt": "{} lies on", "subject_id": "Q1", "relation": "continent"}, None),
    ],
)
def test_conflicts_are_of_one_fact(fields: dict[str, str], kind: str | None, tmp_path: Path) -> None:
    conflicts = found_between(tmp_path, **fields)
    assert [(conflict.kind, conflict.first.name, conflict.second.name) for conflict in conflicts] == (
        [(kind, "e1", "e2")] if kind else []
    )
    if kind == "contradiction":
        assert str(conflicts[0]).startswith("e1 and e2 ") and "Rome" in str(conflicts[0])


def test_conflicts_are_between_edits_of_one_form(tmp_path: Path) -> None:
    """An edit in plain text does not reach the chat form, and the other way round."""
    kinds = {}
    for target in ("Rome", "Oslo"):
        for form in (True, "both"):
            conflicts = found_between(tmp_path / f"{target}-{form}", target_new=target, chat=form)
            kinds[target, form] = [conflict.kind for conflict in conflicts]
    assert kinds == {
        ("Rome", True): [],
        ("Rome", "both"): ["duplicate"],
        ("Oslo", True): [],
        ("Oslo", "both"): ["contradiction"],
    }


def test_conflicts_compare_ids_before_names(tmp_path: Path) -> None:
    """Two places of one name are two subjects."""
    first = FRANCE.model_copy(update={"subject": "Paris", "subject_id": "Q90"})
    second = first.model_copy(update={"id": "e2", "subject_id": "Q830149", "target_new": "Oslo"})
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(made_up([first]))
    ledger.add(made_up([second]))
    assert ledger.conflicts() == ()


def keyed(edit: Edit, key: list[float], *, state: list[float] | None = None) -> WeightPatch:
    patch = made_up([edit])
    factors = {"w.weight": Factors(left=torch.ones(2, 1), right=torch.tensor(key)[:, None])}
    stored = {} if state is None else {"key/w.weight": torch.tensor(state)[:, None]}
    return WeightPatch(factors=factors, provenance=patch.provenance, state=stored)


ITALY = Edit(id="e2", subject="Italy", prompt="{} lies in", target_new="Asia")


@pytest.mark.parametrize(
    ("second", "cosine"),
    [([0.9, 0.3], 0.9 / 0.9**0.5), ([-0.9, -0.3], 0.9 / 0.9**0.5), ([0.5, 0.8], None), ([0.0, 1.0], None)],
)
def test_conflicts_of_near_keys(second: list[float], cosine: float | None, tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(keyed(FRANCE, [2.0, 0.0]))
    ledger.add(keyed(ITALY, second))
    if cosine is None:
        assert ledger.conflicts() == ()
        return
    (conflict,) = ledger.conflicts()
    assert conflict.kind == "near keys" and conflict.cosine == pytest.approx(cosine, abs=1e-3)
    assert "cosine 0.95" in str(conflict)


def test_a_conflict_is_listed_once_whatever_the_order_of_the_steps(tmp_path: Path) -> None:
    """These edits are of one fact, and have near keys."""
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(keyed(FRANCE, [1.0, 0.0]))
    ledger.add(keyed(FRANCE.model_copy(update={"id": "e2"}), [1.0, 0.0]))
    changes = dict(reversed(ledger.now.changes.items()))
    (conflict,) = find_conflicts(ledger.now.active, changes)
    assert conflict.kind == "duplicate" and conflict.first.name == "e1" and conflict.cosine == 1


def test_near_keys_use_stored_keys(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(keyed(FRANCE, [1.0, 0.0], state=[1.0, 0.0]))
    ledger.add(keyed(ITALY, [1.0, 0.0], state=[0.0, 1.0]))
    assert ledger.conflicts() == ()


@pytest.mark.parametrize("stored_first", [True, False])
def test_near_keys_of_a_mixed_sum_use_directions(stored_first: bool, tmp_path: Path) -> None:
    """The stored keys are not those of all edits, so it is not known which is whose."""
    france, italy = keyed(FRANCE, [1.0, 0.0], state=[0.0, 1.0]), keyed(ITALY, [0.9, 0.3])
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(france + italy if stored_first else italy + france)
    (conflict,) = ledger.conflicts()
    assert conflict.kind == "near keys" and conflict.cosine == pytest.approx(0.9 / 0.9**0.5, abs=1e-3)


def test_removed_edits_have_no_conflicts(tmp_path: Path) -> None:
    assert len(found_between(tmp_path, target_new="Oslo")) == 1
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.remove(["e1"])
    assert ledger.conflicts() == ()
