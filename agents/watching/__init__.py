"""A page that shows runs while they go on, and when they are over, from the JSON lines that they write."""
