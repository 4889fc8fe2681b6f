"""Helpers of the tests: the real command, runs that nobody trained, servers."""
