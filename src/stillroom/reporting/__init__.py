"""From metrics and samples to one page: read, tables, figures, page."""
