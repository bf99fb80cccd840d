"""Where published mixtapes live: references, OCI documents, and the remotes that hold them."""
