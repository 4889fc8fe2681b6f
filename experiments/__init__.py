"""One file for each experiment: data only. A file put here is found by its name; see CONTRIBUTING.md."""
