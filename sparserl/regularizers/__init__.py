"""What makes weights sparse: one regulariser a file."""
