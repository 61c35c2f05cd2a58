"""Makes the tables that `plasticity_env.tabular` opens: the leaderboard's cells, and every mask of a small model."""
