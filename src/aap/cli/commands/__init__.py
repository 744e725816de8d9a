"""The commands of `aap`, one module a noun."""
