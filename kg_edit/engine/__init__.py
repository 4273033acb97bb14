"""The same loss, fast: only what a change can reach is run, and what does not change is run once."""
