"""Ext-Sub: subtract what a deficient expert has more than the generalist."""

METHODS = {"ext-sub": "method:ExtSub"}
