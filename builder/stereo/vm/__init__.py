"""Running machines: backends, accelerators, the host side of the control channel, booting a dist."""
