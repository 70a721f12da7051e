"""An exhaustive search on the demo's teacher, kept as measurements: what strategies are replayed on."""
