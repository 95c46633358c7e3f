"""The sharded checkpoint: flat ranges in safetensors files and one JSON manifest."""
