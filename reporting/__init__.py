"""What a person reads: text, tables, charts, the page, the comparison, the W&B dashboard."""
