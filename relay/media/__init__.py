"""What enters and leaves a node: set-up and bookkeeping of tracks, never packets."""
