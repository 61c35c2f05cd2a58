"""How the embedded language models (the zoo) are pretrained: texts, tokenizer, recipe, training, cards."""
