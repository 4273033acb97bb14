"""Tests of `kg_edit.methods.glame_net`."""
