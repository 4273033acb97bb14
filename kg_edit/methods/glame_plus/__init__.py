"""GLAME-plus: ROME's edit, and facts that follow from it, which are written into a late block."""
