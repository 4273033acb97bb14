"""Methods that put the new fact into the prompt and leave the weights alone."""
