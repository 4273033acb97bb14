"""Edits about one fact, and edits under nearly one key, are found; others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.ledger import Ledger
from kg_edit.ledger.conflicts import Conflict
from kg_edit.patches.weight_patch import Factors, WeightPatch
from tests.kg_edit.ledger.ledgers import made_up

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
    ],
)
def test_one_fact(fields: dict[str, str], kind: str, tmp_path: Path) -> None:
    (conflict,) = found_between(tmp_path, **fields)
    assert conflict.kind == kind
    assert (conflict.first.name, conflict.second.name) == ("e1", "e2")
    assert (str(conflict).startswith("e1 and e2 ") and "Rome" in str(conflict)) or kind == "duplicate"


@pytest.mark.parametrize(
    "fields",
    [
        {"subject": "Italy", "target_new": "Oslo"},
        {"prompt": "{} lies in", "relation": "continent", "target_new": "Asia"},
        {"prompt": "{} lies on", "subject_id": "Q1", "relation": "continent"},
    ],
)
def test_other_facts(fields: dict[str, str], tmp_path: Path) -> None:
    assert found_between(tmp_path, **fields) == ()


def test_forms_are_told_apart(tmp_path: Path) -> None:
    """An edit in plain text does not reach the chat form, and the other way round."""
    kinds = {}
    for target in ("Rome", "Oslo"):
        for form in (True, "both"):
            found = found_between(tmp_path / f"{target}-{form}", target_new=target, chat=form)
            kinds[target, form] = [one.kind for one in found]
    assert kinds == {
        ("Rome", True): [],
        ("Rome", "both"): ["duplicate"],
        ("Oslo", True): [],
        ("Oslo", "both"): ["contradiction"],
    }


def test_ids_decide_over_names(tmp_path: Path) -> None:
    """Two places of one name are two subjects."""
    one = FRANCE.model_copy(update={"subject": "Paris", "subject_id": "Q90"})
    two = one.model_copy(update={"id": "e2", "subject_id": "Q830149", "target_new": "Oslo"})
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(made_up([one]))
    ledger.add(made_up([two]))
    assert ledger.conflicts() == ()


def keyed(edit: Edit, key: list[float], *, state: list[float] | None = None) -> WeightPatch:
    patch = made_up([edit])
    factors = {"w.weight": Factors(left=torch.ones(2, 1), right=torch.tensor(key)[:, None])}
    kept = {} if state is None else {"key/w.weight": torch.tensor(state)[:, None]}
    return WeightPatch(factors=factors, provenance=patch.provenance, state=kept)


ITALY = Edit(id="e2", subject="Italy", prompt="{} lies in", target_new="Asia")


@pytest.mark.parametrize(
    ("second", "cosine"),
    [([0.9, 0.3], 0.9 / 0.9**0.5), ([-0.9, -0.3], 0.9 / 0.9**0.5), ([0.5, 0.8], None), ([0.0, 1.0], None)],
)
def test_near_keys(second: list[float], cosine: float | None, tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(keyed(FRANCE, [2.0, 0.0]))
    ledger.add(keyed(ITALY, second))
    if cosine is None:
        assert ledger.conflicts() == ()
        return
    (conflict,) = ledger.conflicts()
    assert conflict.kind == "near keys" and conflict.cosine == pytest.approx(cosine, abs=1e-3)
    assert "cosine 0.95" in str(conflict)


def test_keys_that_a_method_keeps_count_more_than_directions(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(keyed(FRANCE, [1.0, 0.0], state=[1.0, 0.0]))
    ledger.add(keyed(ITALY, [1.0, 0.0], state=[0.0, 1.0]))
    assert ledger.conflicts() == ()


@pytest.mark.parametrize("kept_first", [True, False])
def test_a_sum_of_which_one_part_keeps_keys_is_compared_by_directions(kept_first: bool, tmp_path: Path) -> None:
    """The kept keys are not those of all edits, so they can't tell which is whose."""
    one, two = keyed(FRANCE, [1.0, 0.0], state=[0.0, 1.0]), keyed(ITALY, [0.9, 0.3])
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(one + two if kept_first else two + one)
    (conflict,) = ledger.conflicts()
    assert conflict.kind == "near keys" and conflict.cosine == pytest.approx(0.9 / 0.9**0.5, abs=1e-3)


def test_what_was_removed_is_in_nobodys_way(tmp_path: Path) -> None:
    assert len(found_between(tmp_path, target_new="Oslo")) == 1
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.remove(["e1"])
    assert ledger.conflicts() == ()
