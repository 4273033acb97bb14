"""Methods that train an extra module (a side) beside one layer and change no weights; one method per file."""
