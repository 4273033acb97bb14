"""MEND's editor network: what it is, how it is trained, where it is kept (`kg_edit.methods.mend.method` edits with it)."""
