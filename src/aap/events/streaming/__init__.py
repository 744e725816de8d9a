"""Live events: the collector, the event log, its consumer groups, and the archiver."""
