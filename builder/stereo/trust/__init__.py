"""Who says what of a dist, and whether to believe it: keys, signed statements, checksums, policies."""
