"""CaliNET: calibration memory slots beside one feed-forward network."""
