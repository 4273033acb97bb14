"""One step: culprits found, memory shared out, numbers that are none refused; the model as it was in any case."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord, as_record
from kg_edit.errors import EditError, GraphError, ModelError, PatchError, RefusedEditsError
from kg_edit.evaluation.memory import in_halves
from kg_edit.evaluation.step import describe_failure, edit_step
from kg_edit.methods.memit.method import Memit, MemitConfig
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from tests.everyday import keep_first
from tests.kg_edit.evaluation.conftest import Nudge, NudgeConfig
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny


@pytest.fixture
def records(edits: tuple[Edit, ...]) -> tuple[BenchmarkRecord, ...]:
    return tuple(map(as_record, edits[:8]))


def test_good_batch_is_one_call(method: Nudge, model: LanguageModel, records: tuple[BenchmarkRecord, ...]) -> None:
    step = edit_step(method, records, before=None)
    assert method.calls == [" ".join(record.id for record in records)]
    assert (step.errors, step.halved_to) == ({}, None)
    assert step.seconds > 0


def test_failing_records_are_found_by_halving(model: LanguageModel, records: tuple[BenchmarkRecord, ...]) -> None:
    method = Nudge(model, NudgeConfig(failing=("case-1", "case-6")))
    step = edit_step(method, records, before=None)
    assert step.errors == {
        "case-1": "GraphError: nothing is known about Player 1",
        "case-6": "GraphError: nothing is known about Player 6",
    }
    assert method.calls[-1] == "case-0 case-2 case-3 case-4 case-5 case-7"
    alone = Nudge(model).edit([edit for record in records for edit in record.edits if edit.id not in step.errors])
    (factors,), (expected,) = (patch.factors.values() for patch in (step.patch or WeightPatch(factors={}), alone))
    assert torch.equal(factors.left, expected.left)


@dataclass
class Refusing(Nudge):
    """Names the edits that it refuses, as the joint methods do."""

    def edit(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        if refused := {edit.id: PatchError("too long") for edit in edits if edit.id in self.config.failing}:
            self.calls.append("refused")
            raise RefusedEditsError(refused)
        return super().edit(edits, before=before)


def test_records_that_a_batch_names_are_left_out_at_once(
    model: LanguageModel, records: tuple[BenchmarkRecord, ...]
) -> None:
    """Halves would compute the values of the others twice more."""
    method = Refusing(model, NudgeConfig(failing=("case-1", "case-6")))
    step = edit_step(method, records, before=None)
    assert step.errors == {"case-1": "PatchError: too long", "case-6": "PatchError: too long"}
    assert method.calls == ["refused", "case-0 case-2 case-3 case-4 case-5 case-7"]


@dataclass
class Crowded(Nudge):
    """Fails for more than so many edits at once, each of which it can make alone."""

    room: int = 3
    error: Exception = GraphError("too many at once")  # noqa: RUF009 - never changed

    def edit(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        if len(edits) > self.room:
            raise self.error
        return super().edit(edits, before=before)


def test_contradictory_records_are_computed_one_after_the_other(caplog: pytest.LogCaptureFixture) -> None:
    """The later one is retained, no other record of the batch is lost, and a warning says so."""
    edits = [
        Edit(id=name, subject="France", prompt="In {}, the capital is", target_true="Paris", target_new=target)
        for name, target in (("a", "Rome"), ("b", "Lyon"))
    ]
    model = tiny("llama")
    method = Memit(model, MemitConfig.preset("default", QUICK["memit"]))
    with pytest.raises(EditError, match="keep one, or make one after the other"):
        method.edit(edits)
    step = edit_step(method, [as_record(edit) for edit in edits], before=None)
    assert (step.errors, step.halved_to) == ({}, 1)
    assert step.patch is not None and len(step.patch.provenance["edits"]) == 2
    assert "a batch of 2 records can't be made at once, so its halves are: field target_new: one batch" in caplog.text


@pytest.mark.parametrize(
    "error",
    keep_first(
        [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory: 9 GB")],
        keep=1,
    ),
)
def test_batch_is_halved_until_it_fits_into_memory(
    error: Exception, model: LanguageModel, records: tuple[BenchmarkRecord, ...]
) -> None:
    method = Crowded(model, room=3, error=error)
    step = edit_step(method, records, before=None)
    assert method.calls == ["case-0 case-1", "case-2 case-3", "case-4 case-5", "case-6 case-7"]
    assert (step.errors, step.halved_to) == ({}, 2)
    assert step.patch is not None
    (pair,) = step.patch.factors.values()
    assert pair.left.shape[1] == 4


def test_one_edit_that_does_not_fit_is_a_recorded_failure(
    model: LanguageModel, records: tuple[BenchmarkRecord, ...]
) -> None:
    step = edit_step(Crowded(model, room=0, error=MemoryError()), records[:1], before=None)
    assert step.patch is None
    assert step.errors["case-0"].startswith("ModelError: out of memory even for a batch of one")


def test_another_runtime_error_is_a_defect_and_ends_the_run(
    model: LanguageModel, records: tuple[BenchmarkRecord, ...]
) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        edit_step(Crowded(model, room=0, error=RuntimeError("shapes differ")), records, before=None)


@dataclass
class Overflowing(Nudge):
    """Its change has a value that is none, for one of the edits."""

    value: float = float("nan")

    def edit(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        patch = super().edit(edits, before=before)
        if any(edit.id == "case-2" for edit in edits):
            ((name, pair),) = patch.factors.items()
            left = pair.left.clone()
            left[3] = self.value
            return WeightPatch(factors={name: Factors(left=left, right=pair.right)})
        return patch


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_change_that_is_not_finite_is_its_records_failure(
    value: float, model: LanguageModel, records: tuple[BenchmarkRecord, ...]
) -> None:
    step = edit_step(Overflowing(model, value=value), records[:4], before=None)
    assert list(step.errors) == ["case-2"]
    assert "is not finite" in step.errors["case-2"]
    assert step.patch is not None


@dataclass
class Looks(Nudge):
    """Notes the weight that it finds, and fails for ids in ``failing``."""

    seen: torch.Tensor | None = None

    def edit(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        with before.applied(self.model) if before else nullcontext():
            self.seen = weight_matrix(self.model.down_projection(1)).detach().clone()
        return super().edit(edits, before=before)


@pytest.mark.parametrize("failing", [(), ("case-0",)])
def test_later_step_starts_from_the_earlier_edits(
    failing: tuple[str, ...], model: LanguageModel, records: tuple[BenchmarkRecord, ...]
) -> None:
    weight = weight_matrix(model.down_projection(1))
    original, before = weight.detach().clone(), Nudge(model).edit(records[1].edits)
    method = Looks(model, NudgeConfig(failing=failing))
    edit_step(method, records[:1], before=before)
    assert torch.equal(weight, original)
    with before.applied(model):
        assert method.seen is not None
        assert torch.equal(method.seen, weight)
        assert not torch.equal(method.seen, original)


@pytest.mark.slow
def test_in_halves_asks_for_less_until_it_fits() -> None:
    sizes: list[int] = []

    def double(numbers: Sequence[int]) -> list[int]:
        sizes.append(len(numbers))
        if len(numbers) > 2:
            raise MemoryError
        return [2 * number for number in numbers]

    assert in_halves(double, range(5)) == [0, 2, 4, 6, 8]
    assert sizes == [5, 2, 3, 1, 2]
    with pytest.raises(ModelError, match="out of memory"):
        in_halves(lambda _: (_ for _ in ()).throw(MemoryError()), [1])


def test_traceback_of_a_failure_is_logged_if_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert describe_failure(ValueError("broken")) == "ValueError: broken" and not caplog.records
    monkeypatch.setenv("KG_EDIT_TRACEBACK", "1")
    assert describe_failure(ValueError("broken")) == "ValueError: broken" and caplog.records[0].exc_info
