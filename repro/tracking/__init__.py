"""Everything that touches MLflow: names, the store, writing a run, reading runs."""
