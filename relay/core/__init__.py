"""The decision plane: sans-IO machines that are given `now` and events, and return actions.

Nothing here reads a clock, a random source, a file or the environment.
"""
