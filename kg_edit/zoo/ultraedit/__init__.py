"""UltraEdit: gradients normalised by running statistics, written by least squares."""
