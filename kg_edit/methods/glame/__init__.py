"""GLAME, its ablations, and GLAME in batches."""

METHODS = {
    "glame": "method:Glame",
    "glame-batch": "batch:GlameBatch",
    "glame-gnn": "variants:GlameGnn",
    "glame-mlp": "variants:GlameMlp",
    "glame-random": "variants:GlameRandom",
}
