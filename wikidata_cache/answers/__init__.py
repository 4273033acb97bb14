"""The answer cache: its files, modes and snapshots, and the sources that read and fill it."""
