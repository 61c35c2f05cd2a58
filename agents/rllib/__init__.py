"""RLlib: the same network as an `RLModule`, environments for its runners, a checked connection to Ray."""
