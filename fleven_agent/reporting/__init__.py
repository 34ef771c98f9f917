"""Reports: built, kept while the server is away, sent."""
