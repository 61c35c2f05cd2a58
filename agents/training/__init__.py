"""What a training is: its arguments, its environments, and the agents by name."""
