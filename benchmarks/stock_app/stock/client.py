"""A ClientApp, since an app must name one; fleet_scale.py's simulated nodes answer in its place."""

from flwr.clientapp import ClientApp

app = ClientApp()
