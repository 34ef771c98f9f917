"""`fleven-server`: one module a command. `main` is the entry point."""
