"""Structured pruning: a network in, a smaller network out."""
