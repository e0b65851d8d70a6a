"""How well scores separate members from non-members, and how far to trust the numbers."""
