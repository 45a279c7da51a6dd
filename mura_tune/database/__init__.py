"""Where searches are stored: SQLite or PostgreSQL, their locks, and what to do when they fail."""
