"""The `aap` command."""
