"""Who sees which: flags, sticky assignment, exposures."""
