"""Measurements: `python -m benchmarks` runs them all, README.md says what each one asks and how."""
