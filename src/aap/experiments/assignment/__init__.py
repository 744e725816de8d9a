"""Assignment: which variant a user gets, where that is stored, and exposures."""
