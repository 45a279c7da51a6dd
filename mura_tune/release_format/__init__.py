"""How a release lies on disk: its manifest, checksums and folder."""
