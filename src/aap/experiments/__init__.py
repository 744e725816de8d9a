"""Who sees which variant: flags, assignment, and analysis of what came of it."""
