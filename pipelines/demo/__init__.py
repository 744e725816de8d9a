"""The demo: a year of real purchases, told as a story."""
