"""Benchmarks by question, and studies; each script runs as ``python -m benchmarks.ROOM.NAME`` in the repository."""
