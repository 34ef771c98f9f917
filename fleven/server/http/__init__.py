"""What API and page share: context, limits, bodies, errors."""
