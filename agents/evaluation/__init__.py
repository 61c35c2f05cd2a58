"""How controllers are judged: on text that none of them saw, beside each other."""
