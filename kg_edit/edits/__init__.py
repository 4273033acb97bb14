"""What is asked: edits, the files and rows that they are read from, relation templates."""
