"""Features online: packed rows in Redis, their writer and reader, and vectors for serving."""
