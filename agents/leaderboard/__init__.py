"""Who keeps most perplexity per FLOP: every player on every model, share and draw of calibration text, on text that none saw."""
