"""The same training in the ways it is usually written, to compare speeds with. Each file is a program of its own."""
