"""What we know: features declared once; batch, online and offline stores; the one door `retrieval`."""
