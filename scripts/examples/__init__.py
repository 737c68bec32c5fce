"""Training on real data: one script a data set, and what they share."""
