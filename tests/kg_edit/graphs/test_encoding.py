"""A graph as tensors, and what is wrong with graphs that can't be."""

from __future__ import annotations

import networkx as nx
import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.errors import GraphError
from kg_edit.graphs.encoding import EncodedSubgraph, encode_subgraph, label_readings, label_vectors
from kg_edit.graphs.source import SubgraphSource, as_source, check_graph
from tests.kg_edit.tiny import tiny
from wikidata_cache.subgraphs.options import SubgraphOptions


def graph() -> nx.MultiDiGraph:
    made = nx.MultiDiGraph()
    made.add_node("Q2", label="Los Angeles Lakers", role="target_new")
    made.add_node("Q1", label="LeBron James", role="subject")
    made.add_node("Q3", label="Los Angeles", role="neighbour")
    made.add_edge("Q1", "Q2", key="P54", label="member of sports team", role="edit")
    made.add_edge("Q2", "Q3", key="P159", label="headquarters location", role="statement")
    made.add_edge("Q2", "Q3", key="P131", label="located in", role="statement")
    return made


def encoded(made: nx.MultiDiGraph) -> EncodedSubgraph:
    return encode_subgraph(tiny("llama"), made, layer=1, pooling="last", start_token=True)


def test_encoded_rows_are_in_the_order_of_the_keys() -> None:
    found = encoded(graph())
    labels = ["LeBron James", "Los Angeles Lakers", "Los Angeles", "member of sports team", "located in"]
    wanted = label_vectors(tiny("llama"), labels, layer=1, pooling="last", start_token=True)
    torch.testing.assert_close(found.nodes, wanted[:3])
    torch.testing.assert_close(found.relations[:2], wanted[3:])
    assert found.edges.tolist() == [[1, 2, 2], [0, 1, 1]]  # (object, subject): a message goes from o to s
    assert found.subject == 0


def test_encoding_does_not_depend_on_the_order_of_the_graph() -> None:
    first, turned = graph(), nx.MultiDiGraph()
    turned.add_nodes_from(reversed(list(first.nodes(data=True))))
    turned.add_edges_from(reversed(list(first.edges(keys=True, data=True))))
    one, other = encoded(first), encoded(turned)
    assert torch.equal(one.nodes, other.nodes)
    assert torch.equal(one.edges, other.edges)
    assert torch.equal(one.relations, other.relations)


def test_normalised_vectors_have_root_mean_square_1() -> None:
    found = encoded(graph())
    scaled = found.normalised()
    torch.testing.assert_close(scaled.nodes.square().mean(-1), torch.ones(3))
    torch.testing.assert_close(scaled.relations.square().mean(-1), torch.ones(3))
    cosine = torch.nn.functional.cosine_similarity(scaled.nodes, found.nodes)
    torch.testing.assert_close(cosine, torch.ones(3))
    zero = EncodedSubgraph(nodes=torch.zeros(1, 4), edges=found.edges, relations=torch.zeros(1, 4), subject=0)
    assert torch.equal(zero.normalised().nodes, torch.zeros(1, 4))


def test_networkx_graph_is_wrapped_as_a_source() -> None:
    source = as_source(graph())
    assert isinstance(source, SubgraphSource)
    assert as_source(source) is source
    with pytest.raises(GraphError, match="the graph is undirected"):
        as_source(nx.Graph())  # type: ignore[arg-type]
    made = Edit(id="1", subject="LeBron James", prompt="{} plays for", target_new="Los Angeles Lakers")
    check_graph(source.subgraph(made, SubgraphOptions(hops=2, per_node=1, seed=0)))


def without_subject(made: nx.MultiDiGraph) -> None:
    made.nodes["Q1"]["role"] = "neighbour"


def with_two_subjects(made: nx.MultiDiGraph) -> None:
    made.nodes["Q3"]["role"] = "subject"


def without_edges(made: nx.MultiDiGraph) -> None:
    made.remove_edges_from(list(made.edges(keys=True)))


def with_a_nameless_node(made: nx.MultiDiGraph) -> None:
    made.nodes["Q3"]["label"] = " "


def with_a_nameless_edge(made: nx.MultiDiGraph) -> None:
    del made.edges["Q2", "Q3", "P131"]["label"]


def with_a_nameless_edit(made: nx.MultiDiGraph) -> None:
    made.edges["Q1", "Q2", "P54"]["label"] = ""


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_subject, r"one node needs role='subject', found 0"),
        (with_two_subjects, r"found 2: \['Q1', 'Q3'\]|found 2: \['Q3', 'Q1'\]"),
        (without_edges, "the subgraph has no edge"),
        (with_a_nameless_node, "node Q3 has no label"),
        (with_a_nameless_edge, "edge Q2 -> Q3 has no label"),
        (with_a_nameless_edit, "the edit has no relation"),
    ],
)
def test_graph_that_can_not_be_encoded_is_refused(spoil: object, message: str) -> None:
    made = graph()
    assert callable(spoil)
    spoil(made)
    for look in (check_graph, encoded):
        with pytest.raises(GraphError, match=message):
            look(made)


def test_label_readings_are_states_of_several_blocks() -> None:
    """The input of block 2 is the output of block 1; that of block 0 is the embeddings."""
    model, label = tiny("llama"), "Los Angeles Lakers"
    found = label_readings(model, [label, "Rome", label], layers=(0, 2))
    assert set(found) == {label, "Rome"}
    readings = found[label].reshape(4, -1)
    torch.testing.assert_close(readings.square().mean(-1), torch.ones(4))
    one, mean = (label_vectors(model, [label], layer=1, pooling=how, start_token=True)[0] for how in ("last", "mean"))
    for reading, wanted in ((readings[2], one), (readings[3], mean)):
        torch.testing.assert_close(reading, wanted / wanted.square().mean().sqrt())
    ids = model.tokenizer(label, add_special_tokens=False)["input_ids"]
    embedded = model.model.get_input_embeddings().weight[ids[-1]].detach()
    torch.testing.assert_close(readings[0], embedded / embedded.square().mean().sqrt())
