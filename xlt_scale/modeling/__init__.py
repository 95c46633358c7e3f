"""Hugging Face encoders, run unpadded, with the heads of our task formats."""
