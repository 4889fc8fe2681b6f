"""Measurements on a trained model, beyond its cost. Each is a function of models and images; none is tracked here."""

from repro.measure.findings import Findings, Row

__all__ = ["Findings", "Row"]
