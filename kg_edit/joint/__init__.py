"""Many facts at once: their values, the closed forms, and writing them layer by layer."""
