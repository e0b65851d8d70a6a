"""What happens at the stages of a fit: checkpoints, guards, progress, quantization, signals."""
