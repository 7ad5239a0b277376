"""A machine and a project made ready: doctor and init."""
