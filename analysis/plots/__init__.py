"""Plots of runs and of sweeps, from tables."""
