"""Which hypervisors a dist fits, and how they start it: `stereo check`, `stereo vmlinux`."""
