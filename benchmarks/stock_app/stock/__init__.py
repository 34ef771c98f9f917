"""A stock ServerApp: Flower's own FedAvg and its own loop, for fleet_scale.py."""
