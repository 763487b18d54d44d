"""What is learned from: the only place where on-policy and off-policy differ."""
