# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Explore subgraphs
#
# What does Wikidata say around an edit, and what of it does a method get to see? We move the headquarters of the Los
# Angeles Lakers to Miami, look at the graph, sample it in several ways, and export it. Everything runs offline, on a
# small piece of Wikidata that ships with the package.

# %%
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import networkx as nx
import pandas as pd

from wikidata_cache import Leakage, SubgraphOptions, WikidataCache, WikidataCacheError, packaged_extract

folder = Path(mkdtemp())
cache = WikidataCache(packaged_extract())


# %% [markdown]
# ## 1. An edit, and its subgraph
# Any object with these eight fields is an edit: words, and Wikidata ids where they are known.


# %%
@dataclass(frozen=True)
class Edit:
    subject: str
    target_new: str
    target_true: str | None = None
    relation: str | None = None
    subject_id: str | None = None
    relation_id: str | None = None
    target_new_id: str | None = None
    target_true_id: str | None = None


lakers = Edit(
    subject="Los Angeles Lakers",
    subject_id="Q121783",
    relation_id="P159",
    target_new="Miami",
    target_new_id="Q8652",
    target_true="Los Angeles",
    target_true_id="Q65",
)
graph = cache.subgraph(lakers, SubgraphOptions(hops=2, per_node=10, seed=0))
graph

# %% [markdown]
# The graph shows itself: click an entity for its statements, drag and zoom, type `/` to search. (Where scripts are
# stripped, as on GitHub, the statements stand in the fold below it.) It is a `networkx.MultiDiGraph`; the old fact is
# drawn dashed but is never in it. All that it was made from is in `graph.graph`.

# %%
print(type(graph).__mro__[1], len(graph), "nodes,", graph.number_of_edges(), "edges")
{key: graph.graph[key] for key in ("hops", "per_node", "seed", "policy", "dropped", "content_hash")}

# %% [markdown]
# ## 2. How much: *n* hops, *m* statements a node
# The edit is hop 1, statements about the new object are hop 2, about their objects hop 3. A node keeps the *m*
# statements with the smallest hash, so the sample depends on the seed alone, and a smaller one is part of a larger one.

# %%
sizes = pd.DataFrame(index=pd.Index([1, 5, 10, 20, 50], name="m"), columns=pd.Index([1, 2, 3], name="n"))
for m in sizes.index:
    for n in sizes.columns:
        sizes.loc[m, n] = cache.subgraph(lakers, SubgraphOptions(hops=n, per_node=m)).number_of_edges()
sizes

# %%
few, many = (set(cache.subgraph(lakers, SubgraphOptions(per_node=m)).edges(keys=True)) for m in (5, 10))
assert few <= many  # the 5 are among the 10

# %% [markdown]
# Another seed gives another sample of the same size. As a drawing for paper, from left to right:

# %%
cache.subgraph(lakers, SubgraphOptions(hops=2, per_node=10, seed=1)).show(static=True)

# %% [markdown]
# ## 3. Which ones: three policies
# `uniform` takes statements as they come, so a property with many values crowds out the others. `relation-stratified`
# takes one of each property in turn; `inverse-hub` prefers objects that fewer statements point to.

# %%
counts = {
    policy: cache.subgraph(lakers, SubgraphOptions(per_node=10, policy=policy))
    .to_dataframe()["property_label"]
    .value_counts()
    for policy in ("uniform", "relation-stratified", "inverse-hub")
}
pd.DataFrame(counts).fillna(0).astype(int).sort_values("uniform", ascending=False)

# %% [markdown]
# ## 4. Which way: incoming statements
# By default nodes are expanded along the statements *about* them. `direction="both"` also follows the others; edges
# keep their direction. Hubs, which thousands of statements name, are left alone. It works without an edit too:

# %%
around = cache.neighbourhood("Q65", SubgraphOptions(hops=1, per_node=8, direction="both"))
around.show(static=True)
print(around.in_degree("Q65"), "statements name Los Angeles,", around.out_degree("Q65"), "are made of it")

# %% [markdown]
# ## 5. What must not be in it
# The old fact never is. If a test will ask for an answer, its entity can be left out too, by id or label: else the
# subgraph may just spell it out.

# %%
guarded = cache.subgraph(lakers, SubgraphOptions(per_node=10, leakage=Leakage(answers=("United States of America",))))
assert "Q30" in graph and "Q30" not in guarded
guarded.graph["dropped"]

# %% [markdown]
# ## 6. Export
# As a table, for PyTorch Geometric, for RDF tools, for Gephi and Cytoscape, and as one HTML file to send to somebody.

# %%
graph.to_dataframe().head(4)

# %%
graph.to_pyg()

# %%
print(graph.to_rdflib().serialize(format="turtle")[-330:])

# %%
graph.to_html(folder / "graph.html")
graph.to_graphml(folder / "graph.graphml")
print({path.name: f"{path.stat().st_size / 1024:.0f} kB" for path in sorted(folder.iterdir())})
nx.read_graphml(folder / "graph.graphml").number_of_edges()

# %% [markdown]
# ## 7. Your own edits, from Wikidata, once
# Public endpoints allow few requests, so fetch all edits of a file in one go, and work offline ever after:
#
# ```
# wikidata-cache fetch edits.jsonl --contact you@example.org --hops 2 --per-node 20
# wikidata-cache fetch edits.jsonl --offline        # the same subgraphs, no connection opened
# wikidata-cache export snapshot.jsonl.gz           # to ship with the paper
# ```
#
# In Python, `WikidataCache(mode="offline")` reads that cache. If a subgraph is missing there, the error message
# names the command that fetches it:

# %%
offline = WikidataCache(cache=folder / "answers.sqlite", mode="offline")
try:
    offline.subgraph(lakers)
except WikidataCacheError as error:
    print(str(error).replace(str(folder), "…"))
