"""Who allowed what: purposes, the policy, the ledger of choices and its projection beside the features."""
