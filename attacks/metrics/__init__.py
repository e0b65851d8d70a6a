"""How well scores tell members from non-members, and how far to trust it."""
