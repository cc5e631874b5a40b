"""Shared types; everything is inline in base.pxd."""
