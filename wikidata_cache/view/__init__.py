"""Views of subgraphs: an interactive HTML page, a static picture, and their display in notebooks."""
