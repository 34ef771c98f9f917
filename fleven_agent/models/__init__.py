"""The champion of the car's experiment: fetched, tried on the newest trip, used, and watched."""
