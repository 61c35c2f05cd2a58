"""Ways to learn one kind of text after another, and what each of them forgets."""
