"""Importing history: mappings, readers, validation in batches, and retries of rejected rows."""
