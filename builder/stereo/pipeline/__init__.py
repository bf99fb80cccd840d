"""Releases: the jobs in their order, what each was made from, the workflows that call them, and the build matrix."""
