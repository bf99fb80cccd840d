"""What runs inside a stereOS machine. Standard library only; the host imports `protocol` from here."""
