"""The project: what one company declares, loaded by path. The library imports none."""
