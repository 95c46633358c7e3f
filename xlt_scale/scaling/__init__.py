"""From many runs to gains: grids and their tables."""
