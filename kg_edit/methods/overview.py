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

Every method takes edits and returns a patch; a later call can build on an earlier one's patch. `kg-edit methods NAME`
prints the settings of a method. Below the title of a family are the pages with the equations, papers and weaknesses of
its methods, and what is the same for all of them. The columns:

- *changes*: weights, a layer's output (adapter), or the prompt. Only weights can be merged into the model,
  or exported as LoRA.
- *batch*: whether the edits of one call are computed together, or as a sequence, each on the model with the earlier
  ones (`grace` and `melo`: without their earlier entries).
- *remove*: exact where one edit can be removed from a batch or a memory of many; else the ledger computes the others
  again ([patches](patches.md#what-removing-means)).
- *graph*: whether a knowledge graph is needed.
"""
PAGES = {  # the pages of docs/ with the sections of a family's methods, in the order of docs/methods.md
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
_CHOICES = """## Which one to take

From what was measured on SmolLM2-135M ([results](results.md)):
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
        "97 % of 100 single edits are generated, and after all but one of 200 paraphrases the new object is preferred "
        "to the old one; 75 % of the neighbours are right, unedited 77 %",
    ),
    Choice(
        "what follows from one fact",
        "glame-plus --graph GRAPH",
        "by its preset late-block 63 % of the two-hop questions whose second hop the model knows are right (30 edits), "
        "without a graph 62 %, with a wrong one 20 %, with rome 43 %; by its default 14 points more (32 other edits)",
    ),
    Choice(
        "hundreds of facts, in the weights",
        "alphaedit --preset fast",
        "94 % of the edits are generated after 300 in sequence, with memit 95 %, with rome 68 %",
    ),
    Choice(
        "hundreds of facts, weights unchanged",
        "serac",
        "100 % of the edits are generated after 300; its network is trained first: kg-edit serac train",
    ),
    Choice(
        "nothing else may change",
        "grace",
        "100 % of the unrelated answers of zsRE are unchanged; 91 % of the edits are generated, 0 % after paraphrases",
    ),
    Choice(
        "nothing trained, nothing computed",
        "ike",
        "97 % of 100 edits are generated, without demonstrations; only prompts that name a subject change",
    ),
)


def row_of(entry: MethodEntry) -> tuple[str, ...]:
    """Return the row of a method in the table of all methods; the columns are `HEADER`."""
    batch = "together" if entry.joint else "sequence"
    remove = "exact" if entry.separable else "recomputed"
    graph = "yes" if entry.needs_graph else "no"
    return (entry.name, entry.about, entry.family or "its own", entry.changes, batch, remove, graph, entry.paper)


def settings(method: type[EditingMethod]) -> Iterator[tuple[str, str, str]]:
    """Yield (setting, value in the preset ``default``, meaning) of a method; the names are those of ``--set``."""
    return _settings(method.config_class.preset("default"))


def _settings(config: BaseModel, group: str = "") -> Iterator[tuple[str, str, str]]:
    for field, info in type(config).model_fields.items():
        default = getattr(config, field)
        if isinstance(default, BaseModel):
            yield from _settings(default, f"{group}{field}.")
        else:
            yield f"{group}{field}", str(default), info.description or ""


_BLOCKS = 30  # number of blocks of SmolLM2-135M


def computes(method: type[EditingMethod]) -> str:
    """Return a sentence on the computation of a method: its family, what it trains, and its default layers."""
    layers = method.config_class.model_construct().written_layers(_BLOCKS)
    where = ", ".join(str(layer) for layer in layers) or "none"
    if len(layers) > 1 and layers == tuple(range(layers[0], layers[-1] + 1)):
        where = f"{layers[0]} to {layers[-1]}"
    family = method.family or "its own"
    return f"Family: {family}. Trains: {method.trains}. Layers by default, in a model of {_BLOCKS} blocks: {where}."


def methods_page() -> str:
    """Return the text of docs/methods.md: which method to take, and a table for each family of methods."""
    families: dict[str, list[dict[str, str]]] = {family: [] for family in PAGES}
    for _, entry in sorted(method_entries().items()):
        cells = [cell.replace("|", "\\|").replace("*", "\\*") for cell in row_of(entry)]
        row = dict(zip(HEADER, cells, strict=True))
        row["method"] = f"`{row['method']}`"
        families.setdefault(row["family"], []).append(row)
    choices = [(choice.want, f"`{choice.take}`", choice.because) for choice in CHOICES]
    sections = [_HEAD, _CHOICES, markdown_table(Choice._fields, choices)]
    for name, rows in families.items():
        if rows:
            sections.append(_family_section(name, rows))
    return "\n".join(sections) + "\n"


def _family_section(name: str, rows: list[dict[str, str]]) -> str:
    """Return the section of a family: a line of what is the same for all of its methods, and a table of the rest."""
    same = []
    for column in ("changes", "batch", "remove", "graph"):
        values = {row[column] for row in rows}
        if len(values) == 1:
            same.append(column)
    links = [f"[{title}]({page}.md)" for page, title in PAGES.get(name, {}).items()]
    caption = [f"*{column}*: {rows[0][column]}" for column in same]
    if links:
        caption.insert(0, ", ".join(links))
    shown = [column for column in HEADER if column not in (*same, "family", "paper")]
    cells = []
    for row in rows:
        cells.append([row[column] for column in shown])
    table = markdown_table(shown, cells)
    lines = [f"\n## {name.capitalize()}"]
    if caption:
        lines.append("\n" + "; ".join(caption))
    return "\n".join([*lines, "", table])
