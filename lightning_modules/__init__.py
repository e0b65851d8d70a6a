"""Networks, the classifier, and the fleet with its checkpoints."""
