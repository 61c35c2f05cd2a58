"""Who learns: PPO of our own, Stable-Baselines3; and how controllers are evaluated."""

if __name__ != "plasticity_env.agents":
    raise ImportError("agents is imported as plasticity_env.agents: that is its only name, in a checkout and installed")
