"""A seeded world around the decision core: fake pool, disk, clock and people; real engine, records and breaker."""
