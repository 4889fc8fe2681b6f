"""Measurements on a trained model beyond its cost: each a function of model and images, listed in `measurements`."""
