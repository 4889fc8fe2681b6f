"""The report: its tables, its figures, its sections, and the files that it is written to."""
