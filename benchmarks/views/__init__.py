"""Every page and list of the site on a store with a million jobs, on either engine. See `docs/benchmarks.md`."""
