"""The `aap` command: one thin file a command group; what a command does is done by the packages below."""
