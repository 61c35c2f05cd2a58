"""Routers: training them in Route-v0, comparing them on a table, and the small table that comes with the package."""
