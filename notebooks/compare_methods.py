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
# # Compare methods
#
# The same three edits by methods of five families, on SmolLM2-135M, offline. Three edits rank nothing: they show what
# the families do differently. `docs/results.md` has what was measured on benchmarks; `kg-edit evaluate` and `kg-edit
# compare` do it properly, with intervals.

# %%
from importlib.resources import as_file, files
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import pandas as pd

from kg_edit import LanguageModel, Ledger, before_and_after, find_method, read_edits

# %% [markdown]
# ## 1. Edits and model

# %%
with as_file(files("kg_edit") / "data" / "demo.jsonl") as path:
    edits = read_edits(path).edits
model = LanguageModel.load("smollm2-135m")
[(edit.text, edit.target_true, edit.target_new) for edit in edits]

# %% [markdown]
# ## 2. Five families
# A rank-one write (ROME), the same with a value made from the graph (GLAME), fine-tuning with the prompt masked
# (FT-M), a codebook at one layer (GRACE), and the fact inserted in the prompt (definition). All have one shape: a
# config, a class, `edit(edits) -> Patch`.

# %%
METHODS = ("rome", "glame", "ft-m", "grace", "definition")
patches, tables = {}, []
for name in METHODS:
    patches[name] = find_method(name).on(model).edit(edits)
    tables.append(before_and_after(model, patches[name], edits).to_frame().assign(method=name))
scores = pd.concat(tables)
print(", ".join(f"{name}: {patch.changed_part}, {patch.summary[:60]}" for name, patch in patches.items()))

# %% [markdown]
# ## 3. What came of it
# The share of prompts of each kind whose target is the more likely one (for portability: is generated), and what the
# target costs in nats per token.

# %%
kinds = ["rewrite", "paraphrase", "portability", "locality"]
table = scores.pivot_table(index="method", columns="kind", values=["edited right", "edited nats"]).loc[list(METHODS)]
right, nats = (table[name][kinds].astype(float).round(2) for name in ("edited right", "edited nats"))
right

# %%
nats

# %%
figure, axes = plt.subplots(1, len(kinds), figsize=(11, 2.9), sharey=True, layout="constrained")
for axis, kind in zip(axes, kinds, strict=True):
    means = scores[scores.kind == kind].groupby("method")[["unedited nats", "edited nats"]].mean().loc[list(METHODS)]
    axis.barh(means.index, means["unedited nats"], color="#d5d9de", label="unedited")
    axis.barh(means.index, means["edited nats"], color="#3b6ea8", height=0.45, label="edited")
    axis.set_title(kind)
    axis.set_xlabel("nats a token")
axes[0].invert_yaxis()
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False)
plt.show()

# %% [markdown]
# ROME and GLAME carry the fact to its paraphrases and to questions. FT-M learns the sentence more than the fact.
# GRACE holds for the prompt itself and leaves all else alone. A fact in the prompt makes the answers to questions the
# most likely, though the model does not always generate them, and changes no weight, so it can't be merged into one.

# %%
assert (right.loc[["rome", "glame"], "paraphrase"] == 1).all()
assert (right.loc[["rome", "glame"], "portability"] > right.loc["ft-m", "portability"]).all()
locality = scores[(scores.method == "grace") & (scores.kind == "locality")]
assert (locality["edited nats"] == locality["unedited nats"]).all() and right.loc["grace", "rewrite"] == 1
assert nats["portability"].idxmin() == "definition"

# %% [markdown]
# ## 4. Remove one edit
# A ledger keeps patches with a history; after a removal it is as if the edit had never been made.

# %%
with TemporaryDirectory() as folder:
    ledger = Ledger.open(folder)
    ledger.add(patches["grace"])
    ledger.remove([edits[0].id])
    print([(entry.name, entry.state) for entry in ledger.edits])
