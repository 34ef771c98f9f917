"""`fleven-server serve`: one process for scheduler, API and page."""
