"""A person's rights: everything held of them found, handed over, corrected or erased, and a certificate of it."""
