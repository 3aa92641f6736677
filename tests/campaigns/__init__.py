"""Long runs of one check each, seeded and resumable: `make campaign NAME=...`."""
