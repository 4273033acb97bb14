"""A graph as tensors, graphs that can't be encoded, and label vectors as the model itself computes them."""

from __future__ import annotations

import networkx as nx
import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.errors import GraphError
from kg_edit.graphs.encoding import EncodedSubgraph, encode_subgraph, label_vectors
from kg_edit.graphs.source import SubgraphSource, as_source, check_graph
from kg_edit.models.hooks import watch
from kg_edit.models.language_model import LanguageModel
from tests.everyday import keep_first
from tests.kg_edit.models.test_prompts import sentencepiece_style
from tests.kg_edit.tiny import tiny
from wikidata_cache.subgraphs.options import SubgraphOptions


def graph() -> nx.MultiDiGraph:
    subgraph = nx.MultiDiGraph()
    subgraph.add_node("Q2", label="Los Angeles Lakers", role="target_new")
    subgraph.add_node("Q1", label="LeBron James", role="subject")
    subgraph.add_node("Q3", label="Los Angeles", role="neighbour")
    subgraph.add_edge("Q1", "Q2", key="P54", label="member of sports team", role="edit")
    subgraph.add_edge("Q2", "Q3", key="P159", label="headquarters location", role="statement")
    subgraph.add_edge("Q2", "Q3", key="P131", label="located in", role="statement")
    return subgraph


def encoded(subgraph: nx.MultiDiGraph) -> EncodedSubgraph:
    return encode_subgraph(tiny("llama"), subgraph, layer=1, pooling="last", start_token=True)


def test_encoded_rows_are_in_the_order_of_the_keys() -> None:
    encoding = encoded(graph())
    labels = ["LeBron James", "Los Angeles Lakers", "Los Angeles", "member of sports team", "located in"]
    vectors = label_vectors(tiny("llama"), labels, layer=1, pooling="last", start_token=True)
    torch.testing.assert_close(encoding.nodes, vectors[:3])
    torch.testing.assert_close(encoding.relations[:2], vectors[3:])
    assert encoding.edges.tolist() == [[1, 2, 2], [0, 1, 1]]  # (object, subject): a message goes from o to s
    assert encoding.subject == 0


def test_encoding_does_not_depend_on_the_order_of_the_graph() -> None:
    first, turned = graph(), nx.MultiDiGraph()
    turned.add_nodes_from(reversed(list(first.nodes(data=True))))
    turned.add_edges_from(reversed(list(first.edges(keys=True, data=True))))
    one, other = encoded(first), encoded(turned)
    assert torch.equal(one.nodes, other.nodes)
    assert torch.equal(one.edges, other.edges)
    assert torch.equal(one.relations, other.relations)


def test_normalised_vectors_have_root_mean_square_1() -> None:
    encoding = encoded(graph())
    scaled = encoding.normalised()
    torch.testing.assert_close(scaled.nodes.square().mean(-1), torch.ones(3))
    torch.testing.assert_close(scaled.relations.square().mean(-1), torch.ones(3))
    cosine = torch.nn.functional.cosine_similarity(scaled.nodes, encoding.nodes)
    torch.testing.assert_close(cosine, torch.ones(3))
    zero = EncodedSubgraph(nodes=torch.zeros(1, 4), edges=encoding.edges, relations=torch.zeros(1, 4), subject=0)
    assert torch.equal(zero.normalised().nodes, torch.zeros(1, 4))


def test_networkx_graph_is_wrapped_as_a_source() -> None:
    source = as_source(graph())
    assert isinstance(source, SubgraphSource)
    assert as_source(source) is source
    edit = Edit(id="1", subject="LeBron James", prompt="{} plays for", target_new="Los Angeles Lakers")
    check_graph(source.subgraph(edit, SubgraphOptions(hops=2, per_node=1, seed=0)))


def without_subject(subgraph: nx.MultiDiGraph) -> None:
    subgraph.nodes["Q1"]["role"] = "neighbour"


def with_two_subjects(subgraph: nx.MultiDiGraph) -> None:
    subgraph.nodes["Q3"]["role"] = "subject"


def without_edges(subgraph: nx.MultiDiGraph) -> None:
    subgraph.remove_edges_from(list(subgraph.edges(keys=True)))


def with_a_nameless_node(subgraph: nx.MultiDiGraph) -> None:
    subgraph.nodes["Q3"]["label"] = " "


def with_a_nameless_edge(subgraph: nx.MultiDiGraph) -> None:
    del subgraph.edges["Q2", "Q3", "P131"]["label"]


def with_a_nameless_edit(subgraph: nx.MultiDiGraph) -> None:
    subgraph.edges["Q1", "Q2", "P54"]["label"] = ""


def with_a_number(subgraph: nx.MultiDiGraph) -> None:
    subgraph.add_edge("Q2", 3, label="region")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (with_a_number, "the number 3 as the key of a node"),
        (without_subject, r"one node needs role='subject', found 0"),
        (with_two_subjects, r"found 2: \['Q1', 'Q3'\]|found 2: \['Q3', 'Q1'\]"),
        (without_edges, "the subgraph has no edge"),
        (with_a_nameless_node, "node Q3 has no label"),
        (with_a_nameless_edge, "edge Q2 -> Q3 has no label"),
        (with_a_nameless_edit, "the edit has no relation"),
    ],
)
def test_graph_that_can_not_be_encoded_is_refused(spoil: object, message: str) -> None:
    subgraph = graph()
    assert callable(spoil)
    spoil(subgraph)
    for look in (check_graph, encoded):
        with pytest.raises(GraphError, match=message):
            look(subgraph)


LABELS = ["Los Angeles", "place of birth", "Los Angeles", "a", "the city of Philadelphia in Pennsylvania"]


def one_by_one(model: LanguageModel, label: str, layer: int, pooling: str, *, start: bool) -> torch.Tensor:
    """hidden_states[layer + 1] of the model's own output."""
    ids = model.tokenizer(label)["input_ids"]
    before = [model.tokenizer.bos_token_id, *model.tokenizer("\n")["input_ids"]] if start else []
    ids = [*before, *ids]
    with torch.no_grad():
        states = model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer + 1][0]
    rows = states[len(before) :]
    return {"last": rows[-1], "mean": rows.mean(0), "both": (rows[-1] + rows.mean(0)) / 2}[pooling]


@pytest.mark.parametrize("start", keep_first([False, True], keep=1))
@pytest.mark.parametrize("pooling", keep_first(["last", "mean", "both"]))
def test_label_vectors_equal_the_model_one_label_at_a_time(smollm2: LanguageModel, pooling: str, start: bool) -> None:
    vectors = label_vectors(smollm2, LABELS, layer=3, pooling=pooling, start_token=start)  # type: ignore[arg-type]
    for label, vector in zip(LABELS, vectors, strict=True):
        expected = one_by_one(smollm2, label, 3, pooling, start=start)
        torch.testing.assert_close(vector, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert torch.equal(vectors[0], vectors[2])


def test_no_block_above_runs_and_equal_labels_run_once() -> None:
    model = tiny("llama")
    rows: list[int] = []
    above: list[int] = []
    with (
        watch(model.block(1), lambda _, output: rows.append(output.shape[0])),
        watch(model.block(2), lambda *_: above.append(1)),
    ):
        label_vectors(model, LABELS, layer=1)
    assert rows == [4]
    assert above == []


@pytest.mark.parametrize("pooling", ["last", "mean", "both"])
def test_special_tokens_do_not_count_as_the_label(pooling: str) -> None:
    """Neither a BOS in front nor an EOS behind is a part of it."""
    model = tiny("llama", bos=True)
    ids = model.tokenizer("Los Angeles")["input_ids"]
    assert ids[0] == model.tokenizer.bos_token_id
    with torch.no_grad():
        states = model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0, 1:]
    expected = {"last": states[-1], "mean": states.mean(0), "both": (states[-1] + states.mean(0)) / 2}[pooling]
    (vector,) = label_vectors(model, ["Los Angeles"], layer=1, pooling=pooling)  # type: ignore[arg-type]
    torch.testing.assert_close(vector, expected)

    closing = LanguageModel(model=model.model, tokenizer=sentencepiece_style(), spec=model.spec, name="closing")
    ends: list[int] = []
    with watch(closing.block(1), lambda _, output: ends.append(output.shape[1])):
        label_vectors(closing, ["Los Angeles"], layer=1)
    assert ends == [len(sentencepiece_style()("Los Angeles")["input_ids"]) - 1]


def test_start_token_is_not_doubled() -> None:
    """A tokenizer that adds a BOS must not get a second one."""
    model = tiny("llama", bos=True)
    seen: list[int] = []
    with watch(model.block(0), lambda _, output: seen.append(output.shape[1])):
        label_vectors(model, ["Los Angeles"], layer=0, start_token=True)
    assert seen == [len(model.tokenizer("\nLos Angeles")["input_ids"])]


def test_labels_of_one_token_differ_after_a_start_token(smollm2: LanguageModel) -> None:
    """At the start of a text, and right after the start token, this model gives each of them the same state."""
    labels = ["Google", "Japan", "Paris", "France", "English", "actor"]
    alone, after = (label_vectors(smollm2, labels, layer=3, start_token=start) for start in (False, True))

    def likest(vectors: torch.Tensor) -> float:
        directions = torch.nn.functional.normalize(vectors, dim=-1)
        return float((directions @ directions.T - 2 * torch.eye(len(vectors))).max())

    assert likest(alone) > 0.98
    assert likest(after) < 0.9
