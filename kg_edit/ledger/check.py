"""Check whether an edited model still says what its edits are for, by asking the prompts of each edit again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kg_edit.ledger.entries import Entry
from kg_edit.models.language_model import LanguageModel
from kg_edit.reports.probes import Kind, Reading, ReportProbe, check_probes, probes, read


@dataclass(frozen=True, eq=False, kw_only=True)
class Checked:
    """A standing edit, its prompts and the model's reading of each."""

    entry: Entry
    readings: tuple[tuple[ReportProbe, Reading], ...]

    def of(self, kind: Kind) -> tuple[Reading, ...]:
        """The readings of one kind of prompt."""
        return tuple(reading for probe, reading in self.readings if probe.kind == kind)

    def failures(self, wanted: Sequence[Kind] = ("rewrite",)) -> Iterator[tuple[ReportProbe, Reading]]:
        """The prompts of the wanted kinds that are not answered rightly."""
        return ((probe, reading) for probe, reading in self.readings if probe.kind in wanted and not reading.right)


def check(
    model: LanguageModel, entries: Sequence[Entry], *, chat: bool | None = None, progress: bool = False
) -> tuple[Checked, ...]:
    """Ask ``model``, which has the patch applied, all prompts of the edits; ``chat`` as in `probes.probes`.

    A prompt is right if the whole wanted target is more probable than the whole other one. If there is no other one,
    and for questions about what follows, it is right if the model says the target (see `probes.Reading`).

    Raises:
        PromptError, ModelError: a prompt can't be asked; a note names the edit.
    """
    edits = [entry.edit for entry in entries]
    check_probes(model, edits, chat=chat)
    asked = [probes(model, edit, chat=chat) for edit in edits]
    readings = iter(read(model, [probe for found in asked for probe in found], progress="check" if progress else None))
    return tuple(
        Checked(entry=entry, readings=tuple((probe, next(readings)) for probe in found))
        for entry, found in zip(entries, asked, strict=True)
    )
