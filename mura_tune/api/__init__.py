"""The library behind `import mura_tune`: what each verb of the command line calls."""
