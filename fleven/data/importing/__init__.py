"""From a logger's files to trips, one step a module: find, read, map, parse, clean, cut, distribute."""
