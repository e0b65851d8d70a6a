"""The page on pruning: what networks leak whose channels were cut while they were trained."""
