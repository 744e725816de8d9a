"""Features that follow live events: state of each user, its evaluation, and the rows written."""
