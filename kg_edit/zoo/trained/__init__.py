"""What MEND, MALMEN, RLEdit, KE and SERAC share, which train a network: its file, its training edits, its training."""
