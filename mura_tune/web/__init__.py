"""A small web server and the guards of its applications: the dashboard's and the reading room's."""
