"""What methods with a network of their own share: its file, its training, the order of the examples."""
