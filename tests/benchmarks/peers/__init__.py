"""Forwarders of other makers, and plain loops, beside this program: `make bench-peers`."""
