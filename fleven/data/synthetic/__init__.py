"""Synthetic trips: a road, a driver, a vehicle and its sensors."""
