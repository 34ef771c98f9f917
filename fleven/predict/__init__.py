"""Use of a trained model on one trip or a stream of readings, with NumPy alone."""
