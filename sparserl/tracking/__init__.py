"""Where rows go while a run trains: its folder, W&B, the terminal."""
