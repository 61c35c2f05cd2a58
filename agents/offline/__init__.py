"""Episodes as data sets that others can train on, and a learner that trains on them."""
