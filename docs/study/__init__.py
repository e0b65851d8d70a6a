"""The study: its numbers, tables and figures, from the results beside it."""
