"""Real server processes, killed, stopped, flooded and starved: the short forms of the campaigns."""
