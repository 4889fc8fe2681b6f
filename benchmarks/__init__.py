"""Measurements of speed, and the simulation of the verdicts' error rates."""
