"""`fleven-agent`: one module a command. `main` parses the command line and is the entry point."""
