"""MEMIT, EMMET, AlphaEdit and COMEBA: methods that write many edits at once by a least-squares solve."""
