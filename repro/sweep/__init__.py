"""Sweeps: many short runs of one experiment, of which a held-out cost chooses the best, by Optuna."""
