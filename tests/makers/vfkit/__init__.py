"""A vfkit where there is no Virtualization framework: `python -m makers.vfkit`, with the real one's arguments.

It takes and refuses what vfkit 0.6 takes and refuses (`arguments`), runs a QEMU with the devices that the framework
gives a Linux guest and no others (`devices`), and serves the sockets that vfkit serves. What is behind them is a real
guest.
"""
