"""Who this car is for the server: its key and secret, how it joins, and what follows from how it stands."""
