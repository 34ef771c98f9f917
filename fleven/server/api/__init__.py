"""The fleet API: reports in, reads out, metrics for Prometheus."""
