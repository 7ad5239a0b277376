"""The keys that seal state: where they come from, which one seals what is new, and how they change."""
