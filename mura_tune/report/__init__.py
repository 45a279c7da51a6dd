"""What people read of a release: its card, its report and the index of releases."""
