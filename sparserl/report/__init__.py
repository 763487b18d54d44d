"""Tables and figures of what runs left. Only files are read: nothing here trains, and nothing asks who does."""
