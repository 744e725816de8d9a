"""What happened: event types, validation, the archive, and rows that could not be used."""
