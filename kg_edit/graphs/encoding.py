"""Encode an edit's subgraph as the tensors that the R-GNN reads (GLAME, section 4.2).

Entities and relations become vectors [d] by their labels. A label alone goes through the model's first blocks; its
vector is the hidden state after block k, of the label's last token or the mean over its tokens (`label_vectors`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import networkx as nx
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kg_edit.engine.replay import block_output
from kg_edit.errors import GraphError
from kg_edit.graphs.source import check_graph, subject_of
from kg_edit.models.first_token import LINE_BREAK
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Batch, left_pad, split_passes
from kg_edit.models.sampling import document_start

Pooling = Literal["last", "mean", "both"]
_ROWS = 256  # labels in one pass
_TOKENS = 8192  # tokens in one pass, with padding
_SHOWN = 60  # characters of a label in a message


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodedSubgraph:
    """A subgraph as tensors, on one device; or several, as one graph: the result of `together`.

    Attributes:
        nodes: the entities' vectors, [nodes, d]; of several graphs [graphs, nodes, d], padded with zeros.
        edges: [2, edges], rows of ``nodes``: the object, then the subject, which is the direction of messages.
        relations: the edges' vectors, [edges, d].
        subject: the row of the edit's subject in ``nodes``; of several graphs [graphs], as rows of [graphs * nodes], as
            in ``edges``.
        sizes: how many nodes each of several graphs has without padding.
    """

    nodes: Tensor
    edges: Tensor
    relations: Tensor
    subject: int | Tensor
    sizes: tuple[int, ...] = ()

    @classmethod
    def together(cls, graphs: Sequence[EncodedSubgraph]) -> EncodedSubgraph:
        """Return the subgraphs of several edits as one graph without edges between them."""
        sizes = tuple(len(graph.nodes) for graph in graphs)
        edges = []
        subjects = []
        for index, graph in enumerate(graphs):
            first_row = index * max(sizes)  # of this graph, in [graphs * nodes]
            edges.append(graph.edges + first_row)
            subjects.append(graph.subject + first_row)
        return cls(
            nodes=pad_sequence([graph.nodes for graph in graphs], batch_first=True),
            edges=torch.cat(edges, 1),
            relations=torch.cat([graph.relations for graph in graphs]),
            subject=torch.tensor(subjects, device=graphs[0].nodes.device),
            sizes=sizes,
        )

    def with_self_loops(self) -> EncodedSubgraph:
        """Return one graph (before `together`) with each node as its own neighbour, by the first edge's relation.

        In the public program, these edges have the relation with index 1 in a set of the graph's relations. A set has
        no order, so that is an arbitrary one of them.
        """
        loops = torch.arange(len(self.nodes), device=self.edges.device).expand(2, -1)  # [2, nodes]
        relations = torch.cat([self.relations, self.relations[:1].expand(len(self.nodes), -1)])
        return replace(self, edges=torch.cat([self.edges, loops], 1), relations=relations)

    def normalised(self) -> EncodedSubgraph:
        """Return the same with each vector scaled to root mean square 1.

        Early hidden states differ in size by orders of magnitude.
        """
        return replace(self, nodes=_scale_to_unit_rms(self.nodes), relations=_scale_to_unit_rms(self.relations))

    def to(self, device: torch.device) -> EncodedSubgraph:
        """Return one graph (before `together`) on another device: the value's block may be elsewhere."""
        return replace(
            self, nodes=self.nodes.to(device), edges=self.edges.to(device), relations=self.relations.to(device)
        )


def encode_subgraph(
    model: LanguageModel, graph: nx.MultiDiGraph, *, layer: int, pooling: Pooling, start_token: bool
) -> EncodedSubgraph:
    """Encode nodes and relations as the model's hidden states of their labels.

    Args:
        model: the language model.
        graph: an edit's subgraph, with labels.
        layer: k, the block whose output represents a label.
        pooling: as in `label_vectors`.
        start_token: as in `label_vectors`.
    """
    check_graph(graph)
    check_labels(model, graph)
    keys = sorted(graph.nodes)
    edges = _sort_edges(graph)
    labels = [graph.nodes[key]["label"] for key in keys]
    labels += [label for _, _, label in edges]
    vectors = label_vectors(model, labels, layer=layer, pooling=pooling, start_token=start_token)

    # A statement s -r-> o becomes the message o -> s: an edge has its object first.
    row = {key: index for index, key in enumerate(keys)}
    objects = [row[target] for _, target, _ in edges]
    subjects = [row[subject] for subject, _, _ in edges]
    return EncodedSubgraph(
        nodes=vectors[: len(keys)],  # [nodes, d]
        edges=torch.tensor([objects, subjects], device=vectors.device),
        relations=vectors[len(keys) :],  # [edges, d]
        subject=row[subject_of(graph)],
    )


def _sort_edges(graph: nx.MultiDiGraph) -> list[tuple[str, str, str]]:
    """Return (subject, object, label) of each edge, in an order that does not depend on the graph's own."""

    def place(edge: tuple[str, str, object, str]) -> tuple[str, str, str]:
        subject, target, key, _ = edge
        return subject, target, str(key)

    edges = sorted(graph.edges(keys=True, data="label"), key=place)
    return [(subject, target, label) for subject, target, _, label in edges]


def check_labels(model: LanguageModel, graph: nx.MultiDiGraph) -> None:
    """Refuse a graph with a label that is longer than any text the model is made for, and name its statement."""
    longest = _most_tokens(model)
    if longest is None:
        return
    for subject, target, data in graph.edges(data=True):
        parts = (graph.nodes[subject], data, graph.nodes[target])
        names = [str(part.get("label", "")) for part in parts]
        for name in names:
            if len(name.encode()) <= longest:  # a token has at least one byte
                continue
            tokens = _tokenize(model, name, start_token=False)
            if len(tokens.ids) > longest:
                statement = " | ".join(_shorten(part) for part in names)
                raise GraphError(f"in the statement {statement}: {_say_too_long(model, name)}")


def _most_tokens(model: LanguageModel) -> int | None:
    """Return the largest number of tokens in a label: the positions that the model has, or was trained on."""
    trained: int | None = getattr(model.text_config, "max_position_embeddings", None)
    return model.max_positions or trained


def _say_too_long(model: LanguageModel, label: str) -> str:
    """Return the message about a label that is too long."""
    return (
        f"the label {_shorten(label)} has more tokens than the {_most_tokens(model)} positions of {model.name}; "
        "shorten it, or leave it out of the graph"
    )


def _shorten(label: str) -> str:
    """Return a label in quotes, cut if it is long."""
    if len(label) <= _SHOWN:
        return repr(label)
    return f"{label[:_SHOWN]!r}…"


@torch.no_grad()
def label_vectors(
    model: LanguageModel,
    labels: Sequence[str],
    *,
    layer: int,
    pooling: Pooling = "last",
    start_token: bool = False,
) -> Tensor:
    """Return the output of block ``layer`` for each label read alone: [labels, d] in float32.

    Equal labels are computed once; no block above ``layer`` runs.

    Args:
        model: the language model.
        labels: names of entities and relations.
        layer: the block, 0-based.
        pooling: the last token's state (paper), the mean over the label's tokens (public code), or the mean of both.
        start_token: put the document's start and a line break before each label. In many models, the first token of a
            text is an attention sink (`models.first_token`): its hidden state is huge, and the same whatever the token
            is. In some models, the first token after the document's start is one too.
    """
    vectors: dict[str, Tensor] = {}
    for batch, own_tokens in _make_batches(model, labels, start_token=start_token):
        states = block_output(model, batch, layer)  # [labels, tokens, d]
        for (label, own), state in zip(own_tokens.items(), states, strict=True):
            last = state[-1]
            mean = state[-own:].mean(0)  # rows are padded on the left, so a label's own tokens are the last ones
            match pooling:
                case "last":
                    vectors[label] = last
                case "mean":
                    vectors[label] = mean
                case "both":
                    vectors[label] = (last + mean) / 2
    return torch.stack([vectors[label] for label in labels]).float()


def _make_batches(
    model: LanguageModel, labels: Sequence[str], *, start_token: bool
) -> Iterator[tuple[Batch, dict[str, int]]]:
    """Yield left-padded batches of the distinct labels, short ones first, each with its labels in the rows' order.

    With each label comes the number of its own tokens (`_LabelTokens.own`), which are the last ones of its row.
    """
    tokens = {label: _tokenize(model, label, start_token=start_token) for label in sorted(set(labels))}
    by_length = sorted(tokens, key=lambda label: len(tokens[label].ids))
    lengths = [len(tokens[label].ids) for label in by_length]
    longest = _most_tokens(model)
    if longest and lengths and lengths[-1] > longest:
        raise GraphError(_say_too_long(model, by_length[-1]))
    for numbers in split_passes(lengths, rows=_ROWS, tokens=_TOKENS):
        in_batch = by_length[numbers.start : numbers.stop]
        batch = left_pad([tokens[label].ids for label in in_batch], device=model.device)
        yield batch, {label: tokens[label].own for label in in_batch}


class _LabelTokens(NamedTuple):
    """The tokens of a label that is read alone; the last ``own`` of them are the label itself.

    Before them there may be a BOS, or the document's start and a line break.
    """

    ids: list[int]
    own: int


def _tokenize(model: LanguageModel, label: str, *, start_token: bool) -> _LabelTokens:
    """Return a label's tokens without a final EOS; with ``start_token`` after a start, else as the tokenizer has it."""
    if start_token:
        return _tokenize_after_start(model, label)
    encoding = model.tokenizer(label, return_special_tokens_mask=True)
    special = list(encoding["special_tokens_mask"])  # such as [1, 0, 0, 0, 1]: BOS, three tokens, EOS
    if 0 not in special:  # an empty label
        return _LabelTokens([document_start(model.tokenizer)], own=1)
    first = special.index(0)  # of its own tokens
    end = len(special) - special[::-1].index(0)  # behind the last of them
    return _LabelTokens(list(encoding["input_ids"])[:end], own=end - first)


def _tokenize_after_start(model: LanguageModel, label: str) -> _LabelTokens:
    """Return the document's start, a line break and the label; the first two stand for an empty label."""
    line_break = model.tokenizer(LINE_BREAK, add_special_tokens=False)["input_ids"]
    before = [document_start(model.tokenizer), *line_break]
    tokens = model.tokenizer(label, add_special_tokens=False)["input_ids"]
    if not tokens:
        return _LabelTokens(before, own=len(before))
    return _LabelTokens([*before, *tokens], own=len(tokens))


def _scale_to_unit_rms(vectors: Tensor) -> Tensor:
    """Return each of the vectors [..., d] divided by its root mean square."""
    return vectors / vectors.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)
