"""Segments: k-means groups of customers that keep their names."""
