"""FLEVEn: federated learning for vehicles, as Debian packages around Flower."""

__version__ = "0.2.0"
