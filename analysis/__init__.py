"""What the tracked runs say. Reads the tracking store and nothing else."""
