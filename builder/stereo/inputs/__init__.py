"""Locks and fetches what images are made of.

`sources` learns from the host where packages come from, `lock` decides which ones exactly, `fetch` brings them into
the content-addressed `store`.
"""
