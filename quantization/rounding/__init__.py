"""One layer's matrix in, codes out."""
