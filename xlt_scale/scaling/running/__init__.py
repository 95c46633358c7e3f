"""Jobs carried out: claims, executors, retries."""
