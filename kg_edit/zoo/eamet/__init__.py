"""EAMET: MEMIT whose changes of similar subjects are similar."""
