"""SERAC: a scope classifier and a counterfactual model over a memory of edits."""
