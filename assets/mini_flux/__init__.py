"""``mini-flux``: the fill model, its adapters and its depth estimator, and how they were made."""
