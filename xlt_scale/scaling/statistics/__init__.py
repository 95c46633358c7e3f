"""Effects, estimates, fits, resampling, and simulated studies that hold them to known truth."""
