"""Examples to tokens to packed micro-batches, and the plan that says which example is seen when."""
