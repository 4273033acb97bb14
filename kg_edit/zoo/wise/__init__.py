"""WISE: side memories of one down-projection, chosen by how much they would change an output."""
