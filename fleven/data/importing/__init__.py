"""From a logger's files to trips, one module for each step: find, read, map, parse, clean, cut, distribute."""
