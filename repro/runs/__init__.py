"""One run from its configuration to its result, and several runs at a time."""
