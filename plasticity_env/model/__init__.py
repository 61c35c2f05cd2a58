"""The plastic model: a Hugging Face causal LM whose units can be pruned, revived, grown and removed."""
