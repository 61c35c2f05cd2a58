"""Dynamic inference on several kinds of text: what a structure for each kind is worth, and how much of it routers reach."""
