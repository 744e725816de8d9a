"""Analysis: plans, metrics, outcomes, sequential tests, guardrails, results."""
