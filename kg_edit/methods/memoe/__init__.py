"""MEMoE: experts with an anchor router beside one feed-forward network."""

METHODS = {"memoe": "method:Memoe"}
