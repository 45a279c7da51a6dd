"""The library behind `import mura_tune`: what each verb of the command line calls."""

DATA, RUNS, RELEASES = "data/MURA-v1.1", "runs", "releases"  # where things lie unless named
