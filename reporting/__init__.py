"""Everything a person reads: text, tables, charts, page, comparison, W&B dashboard."""
