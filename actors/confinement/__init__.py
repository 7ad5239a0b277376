"""Which sandbox an operation gets: the policy, the settings, the profile of a worker, what was refused."""
