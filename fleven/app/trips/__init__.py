"""From a car's trip files to windows: read, cut, kept in a cache."""
