"""CaliNET: calibration memory slots beside one feed-forward network."""

METHODS = {"calinet": "method:Calinet"}
