"""A person's rights: export, erasure, rectification, retention, and signed certificates."""
