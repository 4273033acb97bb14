"""The overview of methods, from their entries, for the terminal and docs/methods.md; and the settings of a method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel

from kg_edit.registry import MethodEntry, method_entries
from kg_edit.text.display import markdown_table

if TYPE_CHECKING:
    from kg_edit.methods.base import EditingMethod

HEADER = ("method", "what it does", "family", "changes", "batch", "remove", "graph", "paper")
_HEAD = """<!-- Written by `kg-edit methods --markdown`; to change it, change the code and run the command again. -->
# Methods

Every method takes edits and returns a patch, which is the change of the model. A later call of a method can build on
the patch of an earlier call. If a method has a page of its own, its name in the tables links to this page. Above each
table are links to the pages with the equations, the papers and the weaknesses of the methods in the table. `kg-edit
methods NAME` prints the settings of a method. The tables have these columns:

- *changes* says what a patch changes: weights, the output of a layer (adapter), or the prompt. Only changes of weights
  can be merged into the model or exported as LoRA.
- *batch* says how a method makes the edits of one call: all of them *together*, or in *sequence*, each on the model
  with the earlier edits. (`grace` and `melo` make each edit on the model without the earlier edits.)
- *remove* says what happens to the other edits of a ledger, a folder of patches, when one edit is removed. After an
  *exact* removal they keep their values. Otherwise they are [*recomputed*](patches.md#what-removing-means).
- *graph* says whether the method needs a knowledge graph.
"""
# The families in the order of docs/methods.md, each with the pages of docs/ on its methods:
# {family: {name of the page's file, without .md: text of the link}}.
PAGES = {
    "rank-one": {"closed_form": "closed forms", "glame": "GLAME"},
    "joint": {"closed_form": "closed forms", "glame": "GLAME"},
    "neurons": {"closed_form": "closed forms and neurons"},
    "fine-tuning": {"fine_tuning": "fine-tuning"},
    "low-rank": {"fine_tuning": "fine-tuning"},
    "gradient": {"closed_form": "closed forms"},
    "hypernetwork": {"trained": "trained editors"},
    "adapter": {"adapters": "adapters"},
    "codebook": {"adapters": "adapters"},
    "in-context": {
        "in_context": "methods in the prompt",
        "graph_memory": "the graph beside the weights",
        "trained": "trained editors",
    },
}
OWN_PAGES = (  # the methods with a page in docs/methods/
    "alphaedit",
    "ft-m",
    "glame",
    "glame-plus",
    "grace",
    "graph-memory",
    "ike",
    "lora",
    "memit",
    "mend",
    "r-rome",
    "rag",
    "rome",
    "serac",
)
# What all methods of a family have in common, by (column, cell), as a sentence.
_SHARED = {
    ("changes", "weights"): "Patches of this family change weights.",
    ("changes", "adapter"): "Patches of this family change the output of a layer.",
    ("changes", "prompt"): "Patches of this family change the prompt.",
    ("batch", "together"): "The edits of one call are computed together.",
    ("batch", "sequence"): "The edits of one call are made in sequence, one after the other.",
    ("remove", "exact"): "An edit can be removed from a ledger exactly, without computing the other edits again.",
    ("remove", "recomputed"): "If one edit is removed from a ledger, the other edits are computed again.",
    ("graph", "yes"): "A knowledge graph is needed.",
    ("graph", "no"): "No knowledge graph is needed.",
}
_CHOICES_HEAD = """## Which one to take

The numbers in this table were measured on SmolLM2-135M ([results](results.md)):
"""


class Choice(NamedTuple):
    """What a user wants, the method to take for it, and the measured reason."""

    want: str
    take: str
    because: str


# From results/*.csv, on SmolLM2-135M; a test compares every percentage.
CHOICES = (
    Choice(
        "one fact, or a few",
        "rome --preset fast",
        "Each of 100 facts was edited alone by `rome`. The edited model generates the new object of 97 % of these "
        "facts, and prefers it to the old object after all but one of 200 paraphrases. After 75 % of the prompts about "
        "other subjects it still prefers the right object. The unedited model does so after 77 %.",
    ),
    Choice(
        "what follows from one fact",
        "glame-plus --graph GRAPH",
        "The measured two-hop questions ask for a fact about the new object, which the unedited model knows. After "
        "`glame-plus` with the preset `late-block` the model answers 63 % of these questions right (30 edits). After "
        "`rome` it answers 43 %. Without a graph `glame-plus` reaches 62 %, and with a wrong graph 20 %. On 32 other "
        "edits the default preset answers 14 points more than `late-block`.",
    ),
    Choice(
        "hundreds of facts, in the weights",
        "alphaedit --preset fast",
        "After 300 edits by `alphaedit`, made one after the other in one model, the model generates the new object "
        "of 94 % of the hundred edits that were scored. After `memit` it is 95 %, and after `rome` 68 %, of another "
        "hundred of the 300 edits.",
    ),
    Choice(
        "hundreds of facts, weights unchanged",
        "serac",
        "After 300 edits by `serac` the model generates the new object of 100 % of the hundred scored edits. "
        "`kg-edit serac train` has to train the classifier and the second model of `serac` first.",
    ),
    Choice(
        "nothing else may change",
        "grace",
        "In 100 edits of zsRE, `grace` leaves 100 % of the unrelated answers as they are. The edited model generates "
        "91 % of the new objects after the prompts of the edits, but 0 % after paraphrases.",
    ),
    Choice(
        "nothing trained, nothing computed",
        "ike",
        "With the fact in the prompt, and no demonstrations, the model generates the new object of 97 % of 100 facts. "
        "`ike` changes only the answers to prompts that name an edited subject.",
    ),
)


def row_of(entry: MethodEntry) -> tuple[str, ...]:
    """Return the row of a method in the table of all methods; the columns are `HEADER`."""
    family = entry.family or "its own"
    batch = "together" if entry.joint else "sequence"
    remove = "exact" if entry.separable else "recomputed"
    graph = "yes" if entry.needs_graph else "no"
    return (entry.name, entry.about, family, entry.changes, batch, remove, graph, entry.paper)


def list_settings(method: type[EditingMethod]) -> Iterator[tuple[str, str, str]]:
    """Yield (setting, value in the preset ``default``, meaning) of a method; the names are those of ``--set``."""
    return _walk_settings(method.config_class.preset("default"))


def _walk_settings(config: BaseModel, group: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the settings of a config. Those of a config in it have its field's name in front: ``graph.hops``.

    ``group`` is what stands in front of the names of ``config``: "" for the outermost config, "graph." in the example.
    """
    for field, info in type(config).model_fields.items():
        default = getattr(config, field)
        if isinstance(default, BaseModel):
            yield from _walk_settings(default, f"{group}{field}.")
        else:
            yield f"{group}{field}", str(default), info.description or ""


_BLOCKS = 30  # number of blocks of SmolLM2-135M


def describe_computation(method: type[EditingMethod]) -> str:
    """Return a sentence on the computation of a method: its family, what it trains, and its default layers."""
    layers = method.config_class.model_construct().written_layers(_BLOCKS)
    if not layers:
        where = "none"
    elif len(layers) > 1 and layers == tuple(range(layers[0], layers[-1] + 1)):
        where = f"{layers[0]} to {layers[-1]}"
    else:
        where = ", ".join(str(layer) for layer in layers)
    family = method.family or "its own"
    return f"Family: {family}. Trains: {method.trains}. Layers by default, in a model of {_BLOCKS} blocks: {where}."


def methods_page() -> str:
    """Return the text of docs/methods.md: which method to take, and a table for each family of methods."""
    families: dict[str, list[dict[str, str]]] = {family: [] for family in PAGES}
    for _, entry in sorted(method_entries().items()):
        cells = [cell.replace("|", "\\|").replace("*", "\\*") for cell in row_of(entry)]
        row = dict(zip(HEADER, cells, strict=True))
        row["method"] = _link_name(row["method"])
        families.setdefault(row["family"], []).append(row)
    choices = [(choice.want, f"`{choice.take}`", choice.because) for choice in CHOICES]
    sections = [_HEAD, _CHOICES_HEAD, markdown_table(Choice._fields, choices)]
    for name, rows in families.items():
        if rows:
            sections.append(_family_section(name, rows))
    return "\n".join(sections) + "\n"


def _link_name(name: str) -> str:
    """Return the name of a method in code style, as a link if it has a page of its own."""
    if name in OWN_PAGES:
        return f"[`{name}`](methods/{name}.md)"
    return f"`{name}`"


def _family_section(name: str, rows: list[dict[str, str]]) -> str:
    """Return the section of a family: sentences on what is the same for all of its methods, and a table of the rest."""
    shared = _find_shared_cells(rows)

    sentences = []
    links = [f"[{title}]({page}.md)" for page, title in PAGES.get(name, {}).items()]
    if links:
        sentences.append(f"See {', '.join(links)}.")
    sentences += [_SHARED[column, cell] for column, cell in shared.items()]

    columns = [column for column in HEADER if column not in (*shared, "family", "paper")]
    cells = []
    for row in rows:
        cells.append([row[column] for column in columns])

    lines = [f"\n## {name.capitalize()}"]
    if sentences:
        lines.append("\n" + " ".join(sentences))
    return "\n".join([*lines, "", markdown_table(columns, cells)])


def _find_shared_cells(rows: list[dict[str, str]]) -> dict[str, str]:
    """Return the cells that all methods of a family have, by column: {"changes": "weights", "graph": "no"}."""
    shared = {}
    for column in ("changes", "batch", "remove", "graph"):
        values = {row[column] for row in rows}
        if len(values) == 1:
            shared[column] = values.pop()
    return shared
