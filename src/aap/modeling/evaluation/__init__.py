"""How models are judged: metrics, ranking metrics, intervals, and plots."""
