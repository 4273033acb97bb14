"""CaliNET: calibration memory slots, added to one feed-forward network."""
