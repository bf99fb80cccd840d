"""The benchmark behind ci/bench: our build, its artifacts and boots beside those of a plain mkosi recipe."""
