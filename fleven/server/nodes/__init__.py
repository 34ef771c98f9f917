"""The cars: reports taken in, judged, listed. Knows nothing of schedules."""
