"""From a network's output to an action."""
