"""The supervised `flower-supernode`."""
