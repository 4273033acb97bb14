"""Patches: the changes that edits make to a model. This folder has the kinds of patches and their file formats."""
