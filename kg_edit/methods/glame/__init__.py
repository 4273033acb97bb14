"""GLAME, its ablations, and the baselines ROME-KG and MEMIT-KG, which make the subgraph's facts as further edits."""

METHODS = {
    "glame": "glame:Glame",
    "glame-batch": "variants:GlameBatch",
    "glame-gnn": "variants:GlameGnn",
    "glame-mlp": "variants:GlameMlp",
    "glame-random": "variants:GlameRandom",
    "memit-kg": "kg_baselines:MemitKg",
    "rome-kg": "kg_baselines:RomeKg",
}
