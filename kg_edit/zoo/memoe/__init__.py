"""MEMoE: experts with an anchor router, added to one feed-forward network."""
