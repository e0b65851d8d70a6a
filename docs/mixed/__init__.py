"""The page on mixed precision: what networks with searched bits and quantized activations leak."""
