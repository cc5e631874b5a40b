"""Edge Relay: live video across links that lose packets."""

__version__ = "0.1.0"
