"""The Salt extension of Saltway: see `runners/saltway_.py`."""

__version__ = "0.1.0"
