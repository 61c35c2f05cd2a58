"""Named strategies that choose units from signals: which to prune, which to grow, in which order."""
