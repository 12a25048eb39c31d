"""The benchmarks: what Nightcrew does on SQLite, beside the raw limit and beside Huey. See `docs/benchmarks.md`."""
