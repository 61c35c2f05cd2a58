"""What one measuring pass says about every unit: entropy, slopes, moments, and the scores made of them."""
