"""What is learned and scored: task declarations, their catalogue, and the readers of their files."""
