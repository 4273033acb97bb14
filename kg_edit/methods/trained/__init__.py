"""What methods share that train a network (MEND, KE, SERAC, glame-net): its file, its training edits, its training."""
