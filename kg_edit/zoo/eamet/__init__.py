"""EAMET: MEMIT whose changes of similar subjects are similar."""

METHODS = {"eamet": "method:Eamet"}
