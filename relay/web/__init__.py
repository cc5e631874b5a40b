"""HTTP: operations API, metrics."""
