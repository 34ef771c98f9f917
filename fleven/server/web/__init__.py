"""The web page: views of the fleet, its runs and its schedules, rendered from templates."""
