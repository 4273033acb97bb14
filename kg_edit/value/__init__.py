"""Finding the value that an edit writes: the objective (GLAME Eq. 7), its optimisation, and its forward passes."""
