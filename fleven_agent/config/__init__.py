"""node.toml: read, checked, loaded anew."""
