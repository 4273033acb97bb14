"""Link labels to the items and properties that they may mean: candidates, scores, and whole files of edits."""
