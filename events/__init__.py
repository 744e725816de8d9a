"""What happened: event types, the archive, the importer, the demo's data set."""
