"""What people see of a search: its pages, notes, pictures and progress bars."""
