"""server.toml: its keys, how it is read, and the folders that the server uses."""
