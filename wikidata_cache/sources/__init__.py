"""Where statements and labels come from: graph files, stores on disk, and what all sources (endpoints too) share."""
