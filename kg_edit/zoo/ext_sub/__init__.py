"""Ext-Sub: subtract what a deficient expert has more than the generalist."""
