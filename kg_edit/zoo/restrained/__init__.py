"""ROME, MEMIT and EMMET with bounds on their updates: SPHERE, RECT and PRUNE."""
