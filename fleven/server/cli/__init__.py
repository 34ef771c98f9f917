"""`fleven-server`: one module for each command. `main` is the entry point."""
