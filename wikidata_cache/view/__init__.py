"""Views of subgraphs: an interactive HTML page, a static picture, and the display of both in notebooks."""
