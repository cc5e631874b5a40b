"""What the kernel thinks of the wall clock."""

def clock_synchronised() -> bool | None:
    """Whether some program keeps the wall clock right, by adjtimex(2); None: the kernel does not say."""
