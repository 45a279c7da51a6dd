"""The reading room: a page in the browser that reads the studies which a person drops there."""
