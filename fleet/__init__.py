"""Many fits in one run folder: options, checks, one fit, workers, status, dry run, export."""
