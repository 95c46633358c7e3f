"""xlt_scale: intermediate-task training of multilingual encoders, measured across model sizes."""

__version__ = "0.1.0"
