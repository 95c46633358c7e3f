"""Memory, time and cost of training, before anything is launched."""
