"""Runs what the plan decided: tools tree and mkosi, offline, in a closed environment, into the cache."""
