"""The page on networks that learn in tasks: what each task leaks as the next ones come."""
