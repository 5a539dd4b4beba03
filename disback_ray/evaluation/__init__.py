"""What says how good a generator is."""
