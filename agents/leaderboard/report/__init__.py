"""The leaderboard's tables, figures and page."""
