"""Mathematics of networks that learn in tasks: tensors in, tensors out."""
