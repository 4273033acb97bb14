"""What methods share that train an adapter at one layer and change no weights."""
