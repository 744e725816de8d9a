"""Redis: the embedded server, connections to it or to another, and Lua scripts."""
