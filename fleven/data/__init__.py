"""Tools for trip data on disk: import, describe, synthesise."""
