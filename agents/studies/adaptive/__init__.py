"""Adaptive plasticity: heads that go and return while the model learns, against controls at equal training and FLOPs."""
