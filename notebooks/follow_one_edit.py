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
# We change one fact in a language model, *The Eiffel Tower is in the city of Rome*, with GLAME, one step at a time:
# the key, the value, the graph network, the loss, the solve. At the end one call of the library makes the same patch.
# Everything here runs offline.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import torch

from kg_edit import Edit, Glame, LanguageModel, Question, before_and_after
from wikidata_cache import SubgraphOptions, WikidataCache, packaged_extract

# %% [markdown]
# ## 1. The edit
# Subject s, relation r, old object o, new object o\*. The other prompts are for the check at the end: paraphrases
# should generate the new object too, a question asks for what follows from it, and neighbours should stay as they are.

# %%
edit = Edit(
    id="eiffel-tower",
    subject="The Eiffel Tower",
    prompt="{} is in the city of",
    target_true="Paris",
    target_new="Rome",
    subject_id="Q243",
    relation_id="P131",
    target_true_id="Q90",
    target_new_id="Q220",
    paraphrases=("You will find the Eiffel Tower in",),
    portability=(Question(question="In which country is the Eiffel Tower?", answer="Italy"),),
    neighborhood=("The Louvre is in the city of", "The cathedral of Notre-Dame is in the city of"),
)
edit.text, edit.target_new

# %% [markdown]
# ## 2. The subgraph
# From a small piece of Wikidata that ships with the package: the new fact, and what is known about the new object.
# The old fact (dashed) is never in it. `per_node` is GLAME's *m*, `hops` its *n*; the sample depends on the seed
# alone.

# %%
cache = WikidataCache(packaged_extract())
graph = cache.subgraph(edit, SubgraphOptions(hops=2, per_node=12, seed=0))
graph.show(static=True)

# %% [markdown]
# ## 3. The key
# A block of the model has a weight that works like a memory: the down-projection of its MLP takes a vector, the
# *key*, and answers with another one, the *value*. We edit one such weight, at a fifth of the depth. The key of an
# edit is the weight's input at the subject's last token ("Tower").
#
# The model reads the prompt alone, and behind five beginnings that it wrote itself. The key should mean the subject:
# alike whatever precedes it, and different for other places.

# %%
from kg_edit.locate_then_edit.states import other_keys, subject_states
from kg_edit.methods.rome.method import rank_one_update
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import weight_matrix

BLUE, ORANGE, GREY = "#0b5cad", "#c2620a", "#9aa7b1"
model = LanguageModel.load("smollm2-135m")
glame = Glame.on(model, settings={"per_node": 12}, graph=cache)
weight = weight_matrix(model.down_projection(glame.layer)).detach()
with keep_untouched(model):
    request = glame.request(edit)  # the prompt in every context, with its target
    keys, values = subject_states(model, request.rewrites, layer=glame.layer, last=glame.layer, site="value")
    places = ["The Eiffel Tower", "The Louvre", "The Brandenburg Gate", "The Great Wall", "Big Ben"]
    prompts = [model.encode_fact(edit.prompt, subject=name) for name in places]
    others, _ = subject_states(model, prompts, layer=glame.layer, last=glame.layer, site="value")
print(f"block {glame.layer} of {len(model.blocks)}; a key has {keys.shape[1]} numbers, a value {values.shape[1]}")

key = keys.mean(0)  # k*
strongest = key.abs().topk(40).indices
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 2.8), width_ratios=(3, 2), layout="constrained")
left.imshow(keys[:, strongest].abs(), aspect="auto", cmap="Blues")
left.set_yticks(range(len(keys)), ["the prompt alone", *(f"context {number}" for number in range(1, len(keys)))])
left.set_xticks([])
left.set_xlabel("the 40 strongest numbers of the key")
alike = torch.cosine_similarity(others, key[None])
right.barh(places, alike, color=[BLUE, *[GREY] * (len(places) - 1)])
right.invert_yaxis()
right.set_xlabel("cosine with the mean key k*")
plt.show()

# %% [markdown]
# ## 4. The value
# The weight answers the key with m, the value that it has today. It is one of many things that are added up on the
# way to the next word, so by itself it means little. Below: how strong m is compared with what the model has collected
# at this token, block after block. The new value will be m\* = m + z, and z may be at most twice as long as m.

# %%
with keep_untouched(model), torch.no_grad():
    bare = prompts[0]
    ids = torch.tensor([bare.ids[: bare.edited_at + 1]], device=model.device)
    states = model.model(input_ids=ids, output_hidden_states=True).hidden_states
sizes = [float(state[0, -1].norm()) for state in states[1:-1]]  # the last one is normalised
figure, axis = plt.subplots(figsize=(10, 2.4), layout="constrained")
axis.plot(range(len(sizes)), sizes, color=GREY, marker="o", ms=3, label="hidden state at the subject's last token")
axis.plot([glame.layer], [float(values[0].norm())], color=BLUE, marker="o", ls="", label="the value m in it")
limit = glame.config.clamp_norm_factor * float(values[0].norm())
axis.plot([glame.layer], [limit], color=ORANGE, marker="v", ls="", label="the longest z that is allowed")
axis.set_xlabel("block")
axis.set_ylabel("norm")
axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# ## 5. The graph network
# Where does z come from? Each entity and each relation of the subgraph is a name, and the model itself has a vector
# for a name: its hidden state in an early block. A small relational graph network (R-GNN) passes these vectors along
# the edges, from the objects to the subject; what arrives at the subject is z. Before it has learned anything, a gate
# holds z at 0.
#
# These are its inputs, and how alike they are. A name is read at its last token in an early block, so what
# is spelt alike is alike, such as Rome and Ancient Rome:

# %%
with keep_untouched(model):
    inputs, _ = glame.encode(edit)
    change, _ = glame.propose([edit], values[:1])
names = [graph.nodes[node]["label"] for node in sorted(graph.nodes)]
order = sorted(range(len(names)), key=lambda index: graph.nodes[sorted(graph.nodes)[index]]["hop"])
labels = [names[index] for index in order]
vectors = inputs.nodes[order]
unit = vectors / vectors.norm(dim=1, keepdim=True)
figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
drawn = axis.imshow((unit @ unit.T).cpu(), cmap="Blues", vmin=0, vmax=1)
axis.set_yticks(range(len(labels)), labels, fontsize=8)
axis.set_xticks(range(len(labels)), labels, fontsize=8, rotation=45, ha="right")
figure.colorbar(drawn, label="cosine", shrink=0.7)
plt.show()
assert change.change().norm() == 0
print(len(inputs.nodes), "entities,", inputs.edges.shape[1], "edges")

# %% [markdown]
# ## 6. The loss
# With m + z in the place of m, how unlikely is "Rome" after the prompt, in each context? That is the *nll*. A
# second part, *kl*, grows when the model predicts something else about what the Eiffel Tower is; it counts a sixteenth.
# The R-GNN learns by gradient descent until their sum is small and the target is what the model predicts. The loss
# falls:

# %%
(value,) = glame.find_values([edit], [request])
total, nll, kl = zip(*value.descent.losses, strict=True)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 2.8), layout="constrained")
left.plot(total, color=BLUE, marker="o", ms=3, label="loss")
left.plot(nll, color=ORANGE, ls="--", label="nll of Rome")
left.plot(kl, color=GREY, ls=":", label="kl")
left.set_ylabel("nats")
right.plot(torch.exp(-torch.tensor(nll)), color=ORANGE, marker="o", ms=3, label="exp(-nll), the probability of Rome")
right.set_ylim(0, 1)
for axis in (left, right):
    axis.set_xlabel("evaluation of the loss")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9)
plt.show()
z = value.descent.change
assert z.norm() <= limit * (1 + 1e-5)
print(f"{len(total)} evaluations; |z| = {z.norm():.1f}, |m| = {values[0].norm():.1f}")

# %% [markdown]
# ## 7. The solve
# Now the weight W must answer this key with m\*, and every other key as before, as well as it can. There is one best
# answer to that, in closed form: W + left rightᵀ, one column and one row. It needs to know which keys are common: C,
# the mean of k kᵀ over 15,458 tokens of packaged text, and with the weight `hold` the keys of the prompts' other
# tokens, which should change little too.
#
# The new weight gives m\* for the key to five digits. For other keys, by how much does its answer change?

# %%
with keep_untouched(model):
    others = other_keys(model, request.rewrites, glame.layer)
update = rank_one_update(
    change=z,
    mean_key=value.mean_key,
    bare_key=value.bare_key,
    covariance=glame.covariance,
    matrix=weight,
    variant=glame.config.key,
    token_keys=others,
    hold=glame.config.hold,
)
left_factor, right_factor = update.left[:, 0], update.right[:, 0]
reached = left_factor * (right_factor @ value.bare_key)
assert (reached - z).norm() < 1e-5 * z.norm()
print(f"norm of the update {update.product.norm():.1f}, of the weight {weight.norm():.1f}")

templates = [
    "{} is in the city of",
    "{} was built by",
    "{} is made of",
    "{} is in the city of",
    "{} is in the city of",
    "{} was",
]
subjects = ["The Eiffel Tower"] * 3 + ["The Louvre", "Big Ben", "The weather"]
with keep_untouched(model):
    test_prompts = [model.encode_fact(text, subject=name) for text, name in zip(templates, subjects, strict=True)]
    test_keys, _ = subject_states(model, test_prompts, layer=glame.layer, last=glame.layer, site="value")
moved = (test_keys @ right_factor).abs() * left_factor.norm() / (test_keys @ weight.T).norm(dim=1)
figure, axis = plt.subplots(figsize=(10, 2.6), layout="constrained")
texts = [text.format(name) for text, name in zip(templates, subjects, strict=True)]
axis.barh(texts, moved, color=[BLUE if name == edit.subject else GREY for name in subjects])
axis.invert_yaxis()
axis.set_xlabel("change of the weight's answer at the subject's last token, in norms of the answer")
plt.show()

# %% [markdown]
# ## 8. Before and after
# Inside `with patch.applied(model)` the model is edited; after it, the weights are bit for bit as before. One call of
# the library makes the same patch as all these steps, which the second line makes sure of:

# %%
patch = glame.edit([edit])
torch.testing.assert_close(patch.factors[model.weight_name(glame.layer)].product, update.product)
before = weight.clone()
rows = before_and_after(model, patch, [edit])
assert torch.equal(weight, before)
rows

# %% [markdown]
# Nats per token of the target: less is more likely. The arrow goes from before to after.

# %%
figure, axis = plt.subplots(figsize=(10, 2.6), layout="constrained")
for index, row in enumerate(rows):
    colour = {True: BLUE, False: ORANGE}[row.edited.right]
    axis.annotate(
        "", (row.edited.nats, index), (row.unedited.nats, index), arrowprops={"arrowstyle": "-|>", "color": colour}
    )
    axis.plot([row.unedited.nats], [index], "o", color=GREY)
    axis.plot([row.edited.nats], [index], "o", color=colour)
axis.set_yticks(range(len(rows)), [f"{row.probe.prompt} → {row.probe.wanted}" for row in rows], fontsize=8)
axis.invert_yaxis()
axis.set_xlim(left=0)
axis.set_xlabel("nats a token; grey: before, blue: right afterwards, orange: not")
plt.show()

# %% [markdown]
# ## 9. Keep it
# A file of a few kilobytes, with all that it was made from; `Patch.load` reads it.

# %%
with TemporaryDirectory() as folder:
    path = patch.save(Path(folder) / "patch.safetensors")
    print(f"{path.stat().st_size / 1024:.0f} kB,", {name: pair.rank for name, pair in patch.factors.items()})
