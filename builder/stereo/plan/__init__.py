"""Decides what is to be built: a pure function of mixtape, locks and the repository's own files. Nothing is done."""
