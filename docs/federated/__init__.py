"""The page on federated learning: what updates leak, and whether rounding them protects."""
