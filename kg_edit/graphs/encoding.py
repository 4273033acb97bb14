"""Encode an edit's subgraph as the tensors that the R-GNN reads (GLAME, section 4.2).

Entities and relations become vectors [d] by their labels. A label alone goes through the model's first blocks; its
vector is the hidden state after block k, of the label's last token or the mean over its tokens. `label_readings` gives
several such states at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import networkx as nx
import torch
from torch import Tensor

from kg_edit.graphs.source import check_graph, subject_of
from kg_edit.models.first_token import LEAD
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import left_pad
from kg_edit.models.replay import RecordedBlocks, block_output
from kg_edit.models.sampling import document_start

Pooling = Literal["last", "mean", "both"]
_ROWS = 256  # labels in one pass


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodedSubgraph:
    """A subgraph as tensors, on one device.

    Attributes:
        nodes: the entities' vectors, [nodes, d].
        edges: [2, edges], rows of ``nodes``: the object, then the subject, which is the direction of messages.
        relations: the edges' vectors, [edges, d].
        subject: the row of the edit's subject in ``nodes``.
    """

    nodes: Tensor
    edges: Tensor
    relations: Tensor
    subject: int

    def normalised(self) -> EncodedSubgraph:
        """The same with each vector scaled to root mean square 1.

        Early hidden states differ in size by orders of magnitude.
        """
        return EncodedSubgraph(
            nodes=_unit_rms(self.nodes),
            edges=self.edges,
            relations=_unit_rms(self.relations),
            subject=self.subject,
        )

    def to(self, device: torch.device) -> EncodedSubgraph:
        """The same on another device: labels are read in an early block, but the value is needed at a later one."""
        moved = {name: getattr(self, name).to(device) for name in ("nodes", "edges", "relations")}
        return EncodedSubgraph(**moved, subject=self.subject)


def encode_subgraph(
    model: LanguageModel, graph: nx.MultiDiGraph, *, layer: int, pooling: Pooling, start_token: bool
) -> EncodedSubgraph:
    """Encode nodes and relations as the model's hidden states of their labels, in one pass.

    Raises:
        GraphError: not exactly one node has the role of the subject, a node or an edge has no label, or there is no
            edge.
    """
    keys = sorted(graph.nodes)
    edges = sorted(graph.edges(keys=True, data=True), key=lambda edge: edge[:3])
    check_graph(graph)
    labels = [graph.nodes[key]["label"] for key in keys]
    names = [data["label"] for _, _, _, data in edges]
    vectors = label_vectors(model, labels + names, layer=layer, pooling=pooling, start_token=start_token)
    row = {key: index for index, key in enumerate(keys)}
    ends = [[row[target] for _, target, _, _ in edges], [row[subject] for subject, _, _, _ in edges]]
    return EncodedSubgraph(
        nodes=vectors[: len(keys)],
        edges=torch.tensor(ends, device=vectors.device),
        relations=vectors[len(keys) :],
        subject=row[subject_of(graph)],
    )


@torch.no_grad()
def label_vectors(
    model: LanguageModel,
    labels: Sequence[str],
    *,
    layer: int,
    pooling: Pooling = "last",
    start_token: bool = False,
) -> Tensor:
    """The output of block ``layer`` for each label read alone: [labels, d] in float32.

    ``pooling``: the last token's state (paper), the mean over the label's tokens (public code), or the mean of both.
    ``start_token`` puts the document's start and a line break before each label. In many models, the first token of a
    text is an attention sink (`models.first_token`), which has the same huge hidden state for every token; in some
    models, so is the first token after the document's start. Equal labels are computed once; no block above ``layer``
    runs.
    """
    distinct = sorted(set(labels))
    rows = {label: _row(model, label, start_token=start_token) for label in distinct}
    by_length = sorted(distinct, key=lambda label: len(rows[label][0]))
    vectors: dict[str, Tensor] = {}
    for batch in _chunks(by_length, _ROWS):
        padded = left_pad([rows[label][0] for label in batch], device=model.device)
        states = block_output(model, padded, layer)  # [labels, tokens, d]
        for label, state in zip(batch, states, strict=True):
            ids, before = rows[label]
            vectors[label] = _pooled(state[before - len(ids) :], pooling)
    return torch.stack([vectors[label] for label in labels]).float()


@torch.no_grad()
def label_readings(model: LanguageModel, labels: Sequence[str], *, layers: Sequence[int]) -> dict[str, Tensor]:
    """The input of each block of ``layers`` for labels read alone: [2 layers d] in float32, by label.

    For each block: the state of a label's last token, then the mean over its tokens, each scaled to root mean square 1.
    Block 0 reads the embeddings. The document's start stands before a label; no block above the last of ``layers``
    runs.
    """
    rows = {label: _row(model, label, start_token=True) for label in sorted(set(labels))}
    by_length = sorted(rows, key=lambda label: len(rows[label][0]))
    found: dict[str, Tensor] = {}
    for batch in _chunks(by_length, _ROWS):
        padded = left_pad([rows[label][0] for label in batch], device=model.device)
        blocks = range(min(layers), max(layers) + 1)
        record, _ = RecordedBlocks.record(model, padded, blocks, all_inputs=True)
        states = torch.stack([record.inputs[layer].to(model.device).float() for layer in layers], 1)
        for label, state in zip(batch, states, strict=True):  # [layers, tokens, d]
            ids, before = rows[label]
            own = state[:, before - len(ids) :]
            found[label] = _unit_rms(torch.stack([own[:, -1], own.mean(1)], 1)).flatten()
    return found


def _pooled(states: Tensor, pooling: Pooling) -> Tensor:
    """One vector for a label's tokens [tokens, d]."""
    last, mean = states[-1], states.mean(0)
    return {"last": last, "mean": mean, "both": (last + mean) / 2}[pooling]


def _row(model: LanguageModel, label: str, *, start_token: bool) -> tuple[list[int], int]:
    """A label's tokens, and how many of the first ones are not its own (a start, a BOS); a final EOS is dropped."""
    if start_token:
        lead, own = (model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (LEAD, label))
        before = [document_start(model.tokenizer), *lead]
        return [*before, *own], len(before) if own else 0
    encoding = model.tokenizer(label, return_special_tokens_mask=True)
    special = list(encoding["special_tokens_mask"])
    if 0 not in special:
        return [document_start(model.tokenizer)], 0
    end = len(special) - special[::-1].index(0)
    return list(encoding["input_ids"])[:end], special.index(0)


def _chunks(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _unit_rms(vectors: Tensor) -> Tensor:
    return vectors / vectors.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)
