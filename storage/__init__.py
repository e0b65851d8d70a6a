"""What an experiment is on disk: names, files, checksums, weights, signals, records, evidence."""
