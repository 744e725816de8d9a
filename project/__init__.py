"""What a company declares, loaded by name: the library asks for a module of the project and imports none."""
