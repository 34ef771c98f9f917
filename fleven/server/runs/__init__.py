"""Runs: fired, decided, submitted, tracked, ended."""
