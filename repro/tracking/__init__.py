"""The tracking store, MLflow: writing runs to it and reading them back."""
