"""The champion: which model is served, and what it takes to replace it."""
