"""Text as packed blocks of token ids, split by document, and batches of it."""
