"""Who learns: PPO of our own, Stable-Baselines3; and how controllers are evaluated."""
