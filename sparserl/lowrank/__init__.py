"""What is left of a trained policy when its matrices are replaced by factors of low rank."""
