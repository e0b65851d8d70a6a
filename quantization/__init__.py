"""Post-training weight quantization: grids, rounding, packed storage."""
