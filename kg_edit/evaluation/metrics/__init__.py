"""The metrics, each with the probes that it needs."""
