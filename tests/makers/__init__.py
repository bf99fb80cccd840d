"""Makes small, valid samples of every format, in plain Python, so that the tests need no tool."""
