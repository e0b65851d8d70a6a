"""One fit: networks, the classifier, its options and its logger."""
