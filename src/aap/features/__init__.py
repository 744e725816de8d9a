"""What we know: feature declarations, their computation offline and online, and the one door `retrieval`."""
