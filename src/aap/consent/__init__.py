"""Who allowed what: purposes, the unbroken-grant rule, the ledger, and its projection in Redis."""
