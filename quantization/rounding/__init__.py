"""Rounding: one layer's matrix in, codes out."""
