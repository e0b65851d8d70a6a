"""Post-training weight quantization: a network in, codes out."""
