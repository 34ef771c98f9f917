"""A federation that learns nothing, so that only its overhead is left."""
