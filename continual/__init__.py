"""Learning in tasks: a task in, what a learner keeps out."""
