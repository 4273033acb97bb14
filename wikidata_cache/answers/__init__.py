"""Cached answers: cache files, modes, snapshots, and the sources that read and fill a cache."""
