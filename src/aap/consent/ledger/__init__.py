"""The ledger: an append-only, signed, verifiable log of consent records, and receipts of it."""
