"""Learning in tasks: a step or a task of a learner in, what it changes or keeps out."""
