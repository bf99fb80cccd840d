"""Which software is in a dist: a bill of materials from lock and installed tree, as CycloneDX and as SPDX."""
