"""What the page says of itself: the model, the method with its settings, the graph and the ledger; and an example."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

from kg_edit.app.messages import Probe, State, TryRequest
from kg_edit.edits.edit import Edit, checked

if TYPE_CHECKING:
    from kg_edit.app.session import Workshop


def state_of(workshop: Workshop) -> State:
    """What the page works with."""
    method, model, ledger = workshop.method, workshop.model, workshop.ledger
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    return State(
        model=model.name,
        size=f"{parameters / 1e6:,.0f} M parameters, {str(model.model.dtype).removeprefix('torch.')}, {model.device}",
        method=method.name,
        about=method.about,
        settings=method.config.model_dump(mode="json"),
        graph=_graph_name(workshop),
        ledger=str(ledger.folder) if ledger else None,
        standing=sum(entry.state == "standing" for entry in ledger.edits) if ledger else 0,
        example=example(),
    )


def example() -> TryRequest:
    """The first edit of `kg-edit demo`, with its paraphrases and neighbours as probes."""
    lines = (files("kg_edit") / "data" / "demo.jsonl").read_text(encoding="utf-8").splitlines()
    edit = checked(Edit, json.loads(lines[0]))
    probes = [Probe(prompt=prompt) for prompt in edit.paraphrases]
    return TryRequest(
        subject=edit.subject,
        prompt=edit.prompt,
        target_new=edit.target_new,
        target_true=edit.target_true,
        relation=edit.relation,
        subject_id=edit.subject_id,
        target_new_id=edit.target_new_id,
        probes=(*probes, *(Probe(prompt=prompt, answer=edit.target_true) for prompt in edit.neighborhood[:1])),
    )


def _graph_name(workshop: Workshop) -> str | None:
    """Which graph is asked, in a word."""
    if workshop.graph is None:
        return None
    source = getattr(workshop.graph, "source", workshop.graph)
    said = source.provenance() if hasattr(source, "provenance") else {}
    named = ", ".join(str(file.get("name")) for file in said.get("files", ()))
    return named or str(said.get("url") or said.get("kind") or type(source).__name__)
