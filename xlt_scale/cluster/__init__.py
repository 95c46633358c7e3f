"""Running on several nodes: being told to stop, losing processes, and what a batch system needs to know of it."""
