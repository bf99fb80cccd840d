"""`python -m stereo`."""

from stereo.cli import main

if __name__ == "__main__":
    main()
