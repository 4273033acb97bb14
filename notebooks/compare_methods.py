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
import warnings
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import mkdtemp

warnings.filterwarnings("ignore", message="IProgress not found")  # text bars do

import matplotlib.pyplot as plt
import pandas as pd
from transformers.utils import logging as transformers_logging

from kg_edit.edits.files import read_edits
from kg_edit.ledger import Ledger
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.reports.probes import probes, read
from wikidata_cache import WikidataCache, packaged_extract

transformers_logging.disable_progress_bar()
folder = Path(mkdtemp())

# %% [markdown]
# ## 1. Edits, model, graph

# %%
with as_file(files("kg_edit") / "data" / "demo.jsonl") as path:
    edits = read_edits(path).edits
model, graph = LanguageModel.load("smollm2-135m"), WikidataCache(packaged_extract())
[(edit.text, edit.target_true, edit.target_new) for edit in edits]

# %% [markdown]
# ## 2. Five families
# A rank-one write (ROME), the same with a value made from the graph (GLAME), fine-tuning with the prompt masked
# (FT-M), a codebook at one layer (GRACE), and the fact inserted in the prompt (definition). All have one shape: a
# config, a class, `edit(edits) -> Patch`.

# %%
METHODS = ("rome", "glame", "ft-m", "grace", "definition")
asked = [probe for edit in edits for probe in probes(model, edit)]
before = read(model, asked)
patches, rows = {}, []
for name in METHODS:
    found = find_method(name)
    patches[name] = found(model, found.config_class.preset(), graph=graph).edit(edits)
    with patches[name].applied(model) as edited:
        after = read(edited, asked)
    rows += [
        {"method": name, "kind": probe.kind, "right": new.right, "nats": new.nats, "nats before": old.nats}
        for probe, old, new in zip(asked, before, after, strict=True)
    ]
found = pd.DataFrame(rows)
print(", ".join(f"{name}: {patch.kind}, {patch.summary[:60]}" for name, patch in patches.items()))

# %% [markdown]
# ## 3. What came of it
# The share of prompts of each kind whose target is the more likely one (for portability: is generated), and what the
# target costs in nats per token.

# %%
kinds = ["rewrite", "paraphrase", "portability", "locality"]
found.pivot_table(index="method", columns="kind", values="right").loc[list(METHODS), kinds].astype(float).round(2)

# %%
found.pivot_table(index="method", columns="kind", values="nats").loc[list(METHODS), kinds].round(2)

# %%
figure, axes = plt.subplots(1, len(kinds), figsize=(11, 2.9), sharey=True, layout="constrained")
for axis, kind in zip(axes, kinds, strict=True):
    some = found[found.kind == kind].groupby("method")[["nats before", "nats"]].mean().loc[list(METHODS)]
    axis.barh(some.index, some["nats before"], color="#d5d9de", label="before")
    axis.barh(some.index, some["nats"], color="#3b6ea8", height=0.45, label="after")
    axis.set_title(kind)
    axis.set_xlabel("nats a token")
axes[0].invert_yaxis()
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False)
plt.show()

# %% [markdown]
# ROME and GLAME carry the fact to its paraphrases. GRACE holds for the prompt itself and leaves all else alone. FT-M
# learns the sentence more than the fact. A fact in the prompt reaches questions, changes no weight, and so can't
# be merged into one.

# %% [markdown]
# ## 4. Take one edit back
# A ledger keeps patches with a history; after a removal it is as if the edit had never been made.

# %%
ledger = Ledger.open(folder / "ledger")
ledger.add(patches["grace"])
ledger.remove([edits[0].id])
[(entry.name, entry.state) for entry in ledger.edits]
