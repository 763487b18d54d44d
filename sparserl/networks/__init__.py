"""Functions of (layers, observation) whose weights carry a member axis."""
