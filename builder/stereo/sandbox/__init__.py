"""Sandboxes: a machine that was set up from a jcard.toml, watched by a supervisor process of its own."""
