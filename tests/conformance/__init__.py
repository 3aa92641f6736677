"""Suites that are the executable form of a protocol; each runs on every implementation."""
