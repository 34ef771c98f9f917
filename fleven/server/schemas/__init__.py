"""The answers of API, `--json` and page, as models."""
