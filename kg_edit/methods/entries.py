"""The methods of the core. One entry a method: the catalogue that listings read."""

from kg_edit.registry import MethodEntry

METHODS = (
    MethodEntry(
        "alphaedit",
        "mass editing in the null space of other knowledge, batch after batch",
        paper="Fang et al., ICLR 2025, arXiv 2410.02355",
        target="kg_edit.methods.alphaedit.method:AlphaEdit",
        family="joint",
        joint=True,
        separable=True,
        takes_text=True,
    ),
    MethodEntry(
        "ft",
        "fine-tune one down-projection on the whole sentence",
        paper="baseline in Zhu et al., 2020, arXiv 2012.00363",
        target="kg_edit.methods.fine_tuning.ft:Ft",
        family="fine-tuning",
        takes_text=True,
    ),
    MethodEntry(
        "ft-constrained",
        "fine-tune one down-projection within an L-infinity ball around the original weights",
        paper="Zhu et al., 2020, arXiv 2012.00363",
        target="kg_edit.methods.fine_tuning.ft_constrained:FtConstrained",
        family="fine-tuning",
        takes_text=True,
    ),
    MethodEntry(
        "ft-l",
        "fine-tune one down-projection; the prompt's last token predicts the whole target",
        paper="Meng et al., NeurIPS 2022, arXiv 2202.05262; Zhang et al., 2024, arXiv 2401.01286",
        target="kg_edit.methods.fine_tuning.ft:FtL",
        family="fine-tuning",
    ),
    MethodEntry(
        "ft-m",
        "fine-tune one down-projection on the target's tokens, the prompt masked",
        paper="Zhang et al., 2024, arXiv 2401.01286",
        target="kg_edit.methods.fine_tuning.ft:FtM",
        family="fine-tuning",
        takes_text=True,
    ),
    MethodEntry(
        "glame",
        "rank-one editing with a knowledge graph: a graph network computes the value from the edit's subgraph; the "
        "default settings are this project's, the published ones are presets",
        paper="Zhang et al., EMNLP 2024, arXiv 2402.13593",
        target="kg_edit.methods.glame.method:Glame",
        family="rank-one",
        needs_graph=True,
    ),
    MethodEntry(
        "glame-batch",
        "GLAME for many edits at once: graph-made values, spread over several layers",
        paper="Zhang et al., EMNLP 2024, arXiv 2402.13593, with MEMIT's spread",
        target="kg_edit.methods.glame.batch:GlameBatch",
        family="joint",
        joint=True,
        separable=True,
        needs_graph=True,
    ),
    MethodEntry(
        "glame-gnn",
        "GLAME's ablation w/ GNN: relations are left out of the messages",
        paper="Zhang et al., EMNLP 2024, arXiv 2402.13593",
        target="kg_edit.methods.glame.variants:GlameGnn",
        family="rank-one",
        needs_graph=True,
    ),
    MethodEntry(
        "glame-mlp",
        "GLAME's ablation w/ MLP: no messages, the subject's vector alone",
        paper="Zhang et al., EMNLP 2024, arXiv 2402.13593",
        target="kg_edit.methods.glame.variants:GlameMlp",
        family="rank-one",
        needs_graph=True,
    ),
    MethodEntry(
        "glame-plus",
        "GLAME beyond the paper: facts about o* from the graph and the model are written into a late layer",
        paper="this project (docs/glame.md), after Zhang et al., EMNLP 2024, arXiv 2402.13593",
        target="kg_edit.methods.glame_plus.method:GlamePlus",
        family="rank-one",
        needs_graph=True,
    ),
    MethodEntry(
        "glame-random",
        "GLAME's control: o* gets the statements of other entities",
        paper="Zhang et al., EMNLP 2024, arXiv 2402.13593",
        target="kg_edit.methods.glame.variants:GlameRandom",
        family="rank-one",
        needs_graph=True,
    ),
    MethodEntry(
        "memit",
        "mass editing: a batch of facts, spread over several layers",
        paper="Meng et al., ICLR 2023, arXiv 2210.07229",
        target="kg_edit.methods.memit.method:Memit",
        family="joint",
        joint=True,
        separable=True,
        takes_text=True,
    ),
    MethodEntry(
        "memit-kg",
        "MEMIT, and the facts of the edit's subgraph as further requests in the same batch",
        paper="Zhang et al., EMNLP 2024, arXiv 2402.13593 (baseline)",
        target="kg_edit.methods.memit_kg.method:MemitKg",
        family="joint",
        joint=True,
        separable=True,
        needs_graph=True,
    ),
    MethodEntry(
        "r-rome",
        "ROME with one key throughout, so that the denominator of an update is positive",
        paper="Gupta et al., EMNLP Findings 2024, arXiv 2403.07175",
        target="kg_edit.methods.rome.method:RRome",
        family="rank-one",
    ),
    MethodEntry(
        "rome",
        "rank-one model editing: one fact, one layer, no graph",
        paper="Meng et al., NeurIPS 2022, arXiv 2202.05262",
        target="kg_edit.methods.rome.method:Rome",
        family="rank-one",
    ),
    MethodEntry(
        "rome-kg",
        "ROME, and the facts of the edit's subgraph as further ROME edits, one after the other",
        paper="Zhang et al., EMNLP 2024, arXiv 2402.13593 (baseline)",
        target="kg_edit.methods.rome_kg.method:RomeKg",
        family="rank-one",
        needs_graph=True,
    ),
)


def method_entry(name: str) -> MethodEntry:
    """Return the entry of a method, which its class refers to."""
    by_name = {entry.name: entry for entry in METHODS}
    return by_name[name]
