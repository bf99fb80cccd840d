"""Proves things about what was built: that it is unaltered (verify), and where two builds part (diff)."""
