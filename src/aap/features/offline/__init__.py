"""Features in history: builds, the files they write, and point-in-time joins."""
