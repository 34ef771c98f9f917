"""The cars: reports received, judged, listed. Knows nothing of schedules."""
