"""Sources of statements and labels: graph files, stores on disk, and the interface and queries of all sources."""
