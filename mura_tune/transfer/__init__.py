"""Files from and to other machines: over HTTP(S), in a folder, in an object store."""
