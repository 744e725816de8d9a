"""Where things are kept: the folders under home, the Redis in use, secret keys, locks, atomic files."""
