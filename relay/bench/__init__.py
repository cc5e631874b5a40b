"""`relay bench`: what this board carries, in half a minute, with nothing but what is installed."""
