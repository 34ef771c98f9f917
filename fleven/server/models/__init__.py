"""The registry of models: what runs have made, and which of it is used."""
