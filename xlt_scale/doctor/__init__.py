"""`xlt-scale doctor`: what can be wrong with a machine or an allocation, found before hours are spent."""
