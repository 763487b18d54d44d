"""Many runs: which train together, where, and what came of each."""
