"""The kinds of sides, extra modules beside a weight (`kg_edit.patches.side_patch`); each file has one kind."""
