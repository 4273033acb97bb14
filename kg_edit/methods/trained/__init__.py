"""What methods share that train a network (MEND, KE, SERAC): its file, its training edits, its training."""
