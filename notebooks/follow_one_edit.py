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
# # Follow one edit
#
# A language model believes that Spike Hughes comes from London. We change one fact, *Spike Hughes originates from
# Philadelphia*, with GLAME: look at the knowledge around the new fact, turn it into one value inside the model, write
# that value into one weight, and see what changed. Everything here runs offline.

# %%
import warnings
from pathlib import Path
from tempfile import mkdtemp

warnings.filterwarnings("ignore", message="IProgress not found")  # text bars do

from IPython.display import SVG, Markdown, display
from transformers.utils import logging as transformers_logging

from kg_edit.edits.edit import Edit, Question
from kg_edit.jobs.before_after import before_and_after, markdown
from kg_edit.methods.glame.glame import Glame, GlameConfig
from kg_edit.models.language_model import LanguageModel
from wikidata_cache import WikidataCache, packaged_extract
from wikidata_cache.view.static import draw

transformers_logging.disable_progress_bar()
folder = Path(mkdtemp())

# %% [markdown]
# ## 1. The edit
# (s, r, o → o\*), with prompts to check: paraphrases, what follows, and neighbours that should stay as they are.

# %%
edit = Edit(
    id="spike-hughes",
    subject="Spike Hughes",
    prompt="{} originates from",
    target_true="London",
    target_new="Philadelphia",
    subject_id="Q1632204",
    relation_id="P19",
    target_true_id="Q84",
    target_new_id="Q1345",
    paraphrases=("Spike Hughes was born in the city of",),
    portability=(Question(question="In which country was Spike Hughes born?", answer="United States of America"),),
    neighborhood=("Charlie Chaplin originates from", "David Bowie originates from"),
)
edit.text, edit.target_new

# %% [markdown]
# ## 2. The subgraph
# From a small piece of Wikidata that ships with the package: the new fact, and what is known about the new object. The
# old fact is never in it. `per_node` is GLAME's *m*, `hops` its *n*; the sample depends on the seed alone.

# %%
cache = WikidataCache(packaged_extract())
graph = cache.subgraph(edit, hops=2, per_node=12, seed=0)
display(SVG(str(draw(graph, folder / "subgraph.svg"))))

# %% [markdown]
# ## 3. The model, and the method
# The R-GNN reads the labels' early hidden states, from the model itself, and makes the new value m\* = m + z.

# %%
model = LanguageModel.load("smollm2-135m")
glame = Glame(model, GlameConfig(per_node=12), graph=cache, progress=False)
patch = glame.edit([edit])
record = patch.provenance["edits"][0]
{key: record[key] for key in ("steps", "loss_before", "loss_after", "norms", "nodes", "edges")}

# %% [markdown]
# ## 4. Before and after
# The patch is two thin matrices. Inside `with patch.applied(model)` the model is edited; after it, the weights are bit
# for bit as before.

# %%
rows = before_and_after(model, patch, [edit])
display(Markdown(markdown(rows, patch)))

# %% [markdown]
# ## 5. Keep it
# A file of a few kilobytes, with all that it was made from.

# %%
path = patch.save(folder / "patch.safetensors")
print(f"{path.stat().st_size / 1024:.0f} kB,", {name: pair.rank for name, pair in patch.factors.items()})
