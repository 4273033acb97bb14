"""PMET: MEMIT with a change of the attention's output beside the MLP's, of which only the MLP's is written."""
