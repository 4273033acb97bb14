"""Which value to write: the objective (GLAME Eq. 7), its optimisation, and the forward passes that it needs."""
