"""Prediction, one scorer per metric, and retrieval."""
