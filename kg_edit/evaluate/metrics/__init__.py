"""Metrics, each with the kinds of probes that it needs."""
