"""Evaluate editing methods: metrics whose names contain their protocol, resumable runs, reports."""
