"""Places the workers of a search on other machines; the database alone counts their trials."""
