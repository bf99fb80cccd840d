"""What the scripts of ci/ do, on the command line; the work itself is in stereo.pipeline."""
