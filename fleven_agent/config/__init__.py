"""node.toml: read, checked, reloaded."""
