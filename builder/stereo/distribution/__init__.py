"""How dists travel: publish and pull, atomic, verified, resumable, and only what changed."""
