"""MEMIT, EMMET and AlphaEdit: many edits in one least-squares solve, over several layers."""
