"""C = E[k kᵀ] of a layer's keys: measured on a corpus, kept in files, fetched from a hub."""
