"""Benchmarks: measured inside a host that can run sessions, started by scripts/bench."""
