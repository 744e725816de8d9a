"""The dashboard: its data, page and charts."""
