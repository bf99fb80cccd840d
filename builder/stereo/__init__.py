"""stereo: mixtapes in, reproducible virtual machine artifacts out."""
