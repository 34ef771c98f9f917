"""`fleven-agent`: one module for each command. `main` parses the command line and is the entry point."""
