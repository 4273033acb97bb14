"""What the methods share that train an adapter: a small module at one layer's down-projection."""
