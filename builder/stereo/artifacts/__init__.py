"""One reader per format: what is in a disk, a file system, a kernel image, without mounting or trusting any of it."""
